"""What settings mean: sources, recipe, encoder, method, checkpoint.

Every choice can be given as the thing itself or by its name, as flags do.
"""

import contextlib
import functools
import inspect
import os

import keras
import tensorflow as tf
from absl import logging

from tfssl import checks, files, methods, models
from tfssl import data as data_lib
from tfssl.data.views import recipes, tiles
from tfssl.formats import keras_file
from tfssl.formats.encoder import network_of
from tfssl.models import copying, input_range, segmenter
from tfssl.tasks import apart, folder_classes
from tfssl.training import checkpoint

# What `--data_arg` takes; `data_dir` is an argument of its own.
_DATA_ARGS = tuple(name for name in data_lib.sources.OPTIONS if name != "data_dir")
# Arguments of methods that are arguments of the task, or of none.
_NOT_HPARAMS = ("encoder", "name", "teacher")


def sources(
    *,
    data,
    split=None,
    labels="auto",
    channels=None,
    bit_depth=8,
    data_dir=None,
    data_args=None,
    validation_data=None,
    validation_split=None,
    validation_fraction=0.0,
    probe_data=None,
    seed=0,
    class_folders=False,
    unlabelled=False,
    cut_labels=None,
    **_,
):
    """The training source and the validation source (or None) of these settings.

    Classes of the validation images have the numbers that the training images give
    them, see `data.class_names.matched`. With `class_folders` the first level of a
    folder is the class where `labels` is `"auto"`, of either of them; `"folders"` is
    for those of them that are folders. With `unlabelled` the training images are opened
    without labels, unless some are held out. `cut_labels` stands for `labels` where a
    part is held out, None for the same. `probe_data` is labelled images besides, not
    opened here: then a training folder need not have class folders, if there is another
    folder that `"folders"` may be for.
    """
    kind_of = data_lib.sources.kind_of

    def labels_of(data, labels=labels):
        found = class_folders and kind_of(data) == "folder"
        return "folders" if found and labels == "auto" else labels

    options = dict(channels=channels, bit_depth=bit_depth, data_dir=data_dir)
    if validation_data is None and validation_split is not None:
        validation_data = data
    training, beside = options, [kind_of(validation_data), kind_of(probe_data)]
    if "tfds" in beside:  # `data_dir` may be for these images alone.
        training = data_lib.sources.fitting(data, options)

    def trains(labels):
        given = {"labels": labels}
        if "folder" in beside:  # `"folders"` may be for these images alone.
            given = data_lib.sources.fitting(data, given)
        return source(data, data_args=data_args, split=split, **given, **training)

    with folder_classes.explained("training", data, labels):
        given = labels_of(data)
        if unlabelled and not validation_fraction:
            given = "none"
        if probe_data is not None and "folder" in beside:
            train = folder_classes.or_none(trains, given)
        else:
            train = trains(given)
    if validation_data is not None:
        with folder_classes.explained("validation", validation_data, labels):
            validation = source(
                validation_data,
                data_args=data_args,
                beside=True,
                split=validation_split,
                labels=labels_of(validation_data),
                **options,
            )
        apart.check(train, validation)
        return train, data_lib.class_names.matched(validation, train)
    if validation_fraction:
        by = None
        if cut_labels == "none":
            by = data_lib.open_source(train, labels="none")
        elif cut_labels not in (None, labels):
            by = trains(labels_of(data, cut_labels))
        return data_lib.holdout(train, fraction=validation_fraction, seed=seed, by=by)
    return train, None


def source(data, *, data_args=None, beside=False, **options):
    """`data.open_source` with its further arguments, checked.

    Args:
        data: see `data.open_source`.
        data_args: dict of further arguments, or None.
        beside: whether these are other images than those that `data_args` and
            `data_dir` were meant for (validation images); they take only what their
            kind of data has.
        **options: of `data.open_source`.
    """
    given = data_args or {}
    unknown = [name for name in given if name not in _DATA_ARGS]
    if unknown:
        raise ValueError(
            f"data_arg {unknown[0]!r} received, expected some of "
            f"{', '.join(_DATA_ARGS)}."
        )
    parameters = inspect.signature(data_lib.open_source).parameters
    checks.like(given, {name: parameters[name].default for name in given})
    if beside:
        given = data_lib.sources.fitting(data, given)
        options = data_lib.sources.fitting(data, options)
    return data_lib.open_source(data, **options, **given)


def recipe(given, method_name, hparams=None, image_size=None):
    """A recipe from its name, the method's default, or as given; scaled."""
    method_class = methods.METHODS[method_name]
    if given is None:
        given = method_class.recipe_for(**(hparams or {}))
    given = recipes.get(given)
    try:
        method_class.check_recipe(given)
    except ValueError as error:
        name = getattr(given, "name", "custom")
        raise ValueError(f"The recipe {name!r} does not fit: {error}") from error
    wanted = method_class.tiled_views(**(hparams or {}))
    for number, view in enumerate(given):
        if tiles.is_tiled(view) != (number in wanted):
            raise ValueError(
                f"The recipe {given.name!r} does not fit: view {number} is "
                f"{'in tiles' if tiles.is_tiled(view) else 'one picture'}, but "
                f"{method_class.__name__} takes it "
                f"{'in tiles' if number in wanted else 'whole'} with these arguments; "
                "choose another recipe."
            )
    return given.scaled(image_size) if image_size else given


def input_shape(recipe, source):
    """The shape of the images that the encoder is to take.

    Height and width are None for views of several sizes, and for tiles: an evaluation
    has the size of what they are cut from.
    """
    sizes = {size for view in recipe for size in (view.size, view.untiled().size)}
    side = sizes.pop() if len(sizes) == 1 else None
    return (side, side, source.channels)


def bit_depth(given, preprocessing):
    """The depth that image files are opened with for an encoder: 16 for one of such.

    Files of 8 bits give it the same pixels then.
    """
    return 16 if preprocessing.max_value > 255 else given


def encoder(given, input_shape, encoder_args=None, preprocessing=None):
    """An encoder from its name, a `.keras` file, or as given.

    Args:
        given: see `tasks.pretrain`.
        input_shape: of the images.
        encoder_args: dict, of the builder.
        preprocessing: the `Preprocessing` of the images, for encoders that want other
            values than those it makes; None stands for images in [0, 1].

    Returns:
        A Keras model of images as `preprocessing` makes them, which computes by Keras's
        global policy: of a file or a model in another precision it is a copy.

    Raises:
        ValueError: for what is no encoder, arguments that it does not have, and one
            that takes images of another shape.
    """
    normalized = {}
    if preprocessing is not None:
        normalized = {"mean": preprocessing.mean, "std": preprocessing.std}
    _check_encoder_args(given, encoder_args)
    # An encoder's own preprocessing makes room for that of these images.
    network = network_of(_network(given, input_shape, encoder_args or {}, normalized))
    network = segmenter.encoder_of(network)
    if isinstance(given, keras.Model) or _is_file(given):
        network = _in_precision(network)
    check_shape(network, input_shape)
    if network.weights and not network.trainable_variables:
        raise ValueError(
            f"The encoder {network.name!r} is frozen, and nothing of it would learn; "
            "set its trainable = True (and save it so)."
        )
    input_range.check_plain(network, **normalized)
    white = input_range.white(network)
    if white == 1:
        return network
    return input_range.with_pixels(network, white, **normalized)


def _check_encoder_args(given, encoder_args):
    built = isinstance(given, keras.Model)
    if encoder_args and (built or not isinstance(given, str) or _is_file(given)):
        what = "a model that is built already" if built else given
        raise ValueError(
            f"encoder_args={encoder_args} received for {what}, which takes none; they "
            "are for encoders that are built by their name."
        )


def check_shape(network, input_shape, several=False):
    """Raises `ValueError` for a network that is built for images of another shape.

    Args:
        network: a Keras model.
        input_shape: `(height, width, channels)` of images, None for any.
        several: whether there are views of other sizes beside these.
    """
    inputs = getattr(network, "inputs", None) or ()
    if len(inputs) != 1:
        return
    takes, given = tuple(inputs[0].shape[1:]), tuple(input_shape)
    if len(takes) == 2 and given[-1] == 1:
        given = given[:-1]  # Keras drops the axis.
    fits = [None in pair or len(set(pair)) == 1 for pair in zip(takes, given)]
    if len(takes) == len(given) and all(fits):
        return
    fixes = []
    square = len(takes) == 3 and takes[0] == takes[1]
    if square and not all(fits[:2]) and not several:
        fixes.append(f"set image_size={takes[0]}")
    if len(takes) == 3 and not fits[2]:
        fixes.append(f"give images of {takes[2]} channel(s), of files by channels=…")
    fixes = " and ".join(fixes)
    raise ValueError(
        f"The encoder {network.name!r} takes images of shape {takes} (height, width, "
        f"channels; None for any), but these are {tuple(input_shape)}; "
        f"{fixes}{', or ' if fixes else ''}pass a function that builds the encoder, "
        "input_shape -> model."
    )


def _network(given, input_shape, encoder_args, normalized):
    if isinstance(given, keras.Model):
        if tf.distribute.has_strategy():
            raise ValueError(
                f"The encoder {given.name!r} was built outside of the strategy; "
                "pass a function that builds it, input_shape -> model."
            )
        return given
    if not isinstance(given, str):
        return _built(given, input_shape)
    prefix = "keras.applications."
    if given.startswith(prefix):
        builder = getattr(keras.applications, given.removeprefix(prefix), None)
        if not callable(builder):
            raise ValueError(
                f"encoder={given!r} is not in keras.applications; expected for "
                "example 'keras.applications.MobileNetV3Small'."
            )
        build = functools.partial(input_range.application, builder, **normalized)
    elif _is_file(given):
        return _from_file(given, normalized)
    elif given not in models.ENCODERS:
        return models.encoder(given, input_shape=input_shape)  # Says which there are.
    else:
        build = builder = models.ENCODERS[given]
    hidden = ("input_shape", "name", "trainable")
    checks.keywords(builder, encoder_args, "encoder_arg", given, without=hidden)
    with refusals(given, encoder_args):
        return build(input_shape=input_shape, **encoder_args)


def _built(function, input_shape):
    """What a function of the user's builds, a Keras model."""
    expected = "a name, a .keras file, a Keras model or a function input_shape -> model"
    if not callable(function):
        raise checks.refused("encoder", function, expected)
    network = function(input_shape)
    if not isinstance(network, keras.Model):
        raise ValueError(
            f"encoder={function!r} returned {network!r} for input_shape={input_shape}, "
            "expected a Keras model; have the function return the model that it builds."
        )
    return network


def _is_file(encoder):
    return str(encoder).endswith(".keras")


def _in_precision(network):
    """A network that is there already, or its copy that computes as new ones do."""
    asked = keras.config.dtype_policy().name
    same = copying.policy_of(network) == asked
    return network if same else copying.copied(network, f"precision={asked!r}", asked)


def _from_file(path, normalized):
    network, made_for = keras_file.load(path)
    if made_for is not None:
        theirs = {"mean": made_for.mean, "std": made_for.std}
        if normalized and theirs != normalized:
            logging.warning(
                "%s was trained on images normalised by mean %s, std %s; this recipe "
                "gives it mean %s, std %s.",
                path,
                *theirs.values(),
                *normalized.values(),
            )
    return network


@contextlib.contextmanager
def refusals(name, given):
    """Makes one sentence of a TypeError: arguments of the user that do not work."""
    try:
        yield
    except (AttributeError, IndexError, TypeError) as error:
        if not given:
            raise  # No mistake of the user's.
        told = ", ".join(f"{key}={value!r}" for key, value in given.items())
        first = str(error).strip().splitlines()[0][:200].rstrip(".")
        raise ValueError(
            f"{name} received {told}, which does not work ({first}); give arguments of "
            "the kind that its documentation says."
        ) from error


def method(name, encoder, hparams=None, **known_here):
    """Builds a method, refusing arguments that it does not have.

    Args:
        name: key of `METHODS`.
        encoder: a built Keras model.
        hparams: dict, arguments of the method.
        **known_here: what the run knows (`total_steps`, `steps_per_epoch`,
            `num_images`, `num_tiles`, `seed`, `teacher`): handed on to methods that ask
            for it, unless `hparams` say otherwise.
    """
    method_class, settings = _method_settings(name, hparams, known_here)
    with refusals(name, hparams):
        return method_class(encoder, **settings)


def check_memory(name, hparams=None, **known_here):
    """Raises `ValueError` for a method that would take more memory than is allowed.

    Args:
        name: as of `method`.
        hparams: as of `method`.
        **known_here: as of `method`.
    """
    method_class, settings = _method_settings(name, hparams, known_here)
    parameters = inspect.signature(method_class).parameters
    defaults = {key: parameter.default for key, parameter in parameters.items()}
    with refusals(name, hparams):
        method_class.check_memory(defaults | settings)


def _method_settings(name, hparams, known_here):
    """The class of a method, and the arguments that it gets beside its encoder."""
    method_class = methods.METHODS[name]
    known = inspect.signature(method_class).parameters
    hparams = dict(hparams or {})
    checks.keywords(method_class, hparams, "hparam", name, without=_NOT_HPARAMS)
    fitting = {key: value for key, value in known_here.items() if key in known}
    return method_class, fitting | hparams


def checkpoint_path(path):
    """A checkpoint folder from itself, a run's folder or a checkpoints folder."""
    path = files.expanded(path)
    for folder in (path, os.path.join(path, "checkpoints")):
        newest = checkpoint.latest(folder)
        if newest:
            return newest
    checkpoint.read_state(path)  # Says what is wrong, if it is no checkpoint.
    return path
