"""An encoder trained end to end on labels: from scratch, or from where it stands."""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from tfssl import checks, progress
from tfssl.data import bad_files as bad_files_lib
from tfssl.data import labels as labels_lib
from tfssl.data import pipeline, running, views
from tfssl.evaluation import features as features_lib
from tfssl.evaluation import judging
from tfssl.models import copying, freezing, segmenter

_SMALL_IMAGE = 64
_NAMES = {"adamw": "AdamW", "sgd": "Nesterov SGD"}
_BEGINNINGS = {"random": "supervised from scratch", "encoder": "fine-tuned"}
# What the rows about it are called, by where the training begins.
ROWS = {"random": "supervised", "encoder": "fine-tuned"}
# Steps of a view that leave its pixels in their places, and RandAugment, half of whose
# operations do; 0 turns each of them off.
_NO_GEOMETRY = ("jitter", "gray", "blur", "solarize", "rand_augment", "erase")


@dataclasses.dataclass(frozen=True)
class SupervisedResult:
    """What supervised training reached, and how.

    Attributes:
        accuracy: top-1 on the test images, in [0, 1].
        protocol: one line that says how the number was made.
        history: dict of metric name to its values, one per epoch.
        model: the trained Keras model, images -> logits `(batch, num_classes)`.
    """

    accuracy: float
    protocol: str
    history: dict
    model: keras.Model


@dataclasses.dataclass(frozen=True)
class Supervised(judging.Probe):
    """`train` as a probe: of the subject it takes the network, or its architecture.

    Attributes:
        start: see `train`.
        epochs: see `train`.
        min_steps: see `train`.
        draws: draws of the labels below 100 % that it is trained on.
    """

    name = "supervised"
    titles = {"end to end": "Trained end to end"}
    of_stages = False

    start: str = "random"
    epochs: int = 30
    min_steps: int = 300
    draws: int = 1

    def rows(self, subject, budgets):
        setting, index = subject.setting, subject.bank.index
        test, known = setting.test, labels_lib.labelled(setting.test)
        if len(known) < test.num_images:
            test = test.subset(known)
        for budget in budgets:
            results = [
                train(
                    subject.network,
                    setting.train,
                    test,
                    preprocessing=setting.preprocessing,
                    indices=index[selection.indices],
                    recipe=(geometry(setting.view),),
                    start=self.start,
                    epochs=self.epochs,
                    min_steps=self.min_steps,
                    max_bad_fraction=setting.max_bad_fraction,
                    seed=setting.seed + draw,
                    verbose=setting.verbose,
                )
                for draw, selection in enumerate(budget.selections[: self.draws])
            ]
            accuracies = [result.accuracy for result in results]
            yield judging.row(
                ROWS[self.start],
                budget.name,
                "end to end",
                accuracies,
                results[0].protocol,
            )


def untrained(encoder, seed):
    """The architecture of an encoder with fresh random weights.

    Sets Keras's global seed (`keras.utils.set_random_seed(seed)`).

    Args:
        encoder: Keras model. Only its configuration is used, which holds no weights.
        seed: int.

    Raises:
        ValueError: if it cannot be built anew from its configuration.
    """
    keras.utils.set_random_seed(seed)
    try:
        return type(encoder).from_config(encoder.get_config())
    except Exception as error:  # Keras has no error of its own for this.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ValueError(
            f"The encoder {encoder.name!r} cannot be built anew from its configuration "
            f"({reason.rstrip('.')}); give its class get_config and from_config."
        ) from error


def crop_and_flip(preprocessing, *, area=None, flip=None):
    """The usual supervised recipe: a random crop and a random mirror image.

    Args:
        preprocessing: the `data.Preprocessing` of the evaluation; gives size, resize
            filter, mean and std.
        area: share of the image that a crop covers, (low, high); `None`: 0.08 to 1
            (the ImageNet habit), 0.5 to 1 up to 64 pixels.
        flip: probability of a mirror image; `None`: 0.5, but 0 for one channel,
            where left and right often differ in meaning (digits, text, scans): on
            the digits, flips cost the baseline 13 points.

    Returns:
        A recipe of one view.
    """
    if area is None:
        area = (0.5 if preprocessing.size <= _SMALL_IMAGE else 0.08, 1.0)
    if flip is None:
        flip = 0.5 if preprocessing.channels > 1 else 0.0
    view = views.View(
        size=preprocessing.size,
        area=area,
        flip=flip,
        jitter=0.0,
        gray=0.0,
        blur=0.0,
        resize=preprocessing.resize,
        antialias=preprocessing.antialias,
        mean=preprocessing.mean,
        std=preprocessing.std,
    )
    return (view,)


def geometry(view):
    """A view without colour changes and noise: its crop, flip, affine map and size.

    RandAugment is left out whole. Of a view in tiles it is what they are cut from.
    """
    return dataclasses.replace(view.untiled(), **dict.fromkeys(_NO_GEOMETRY, 0))


def geometry_told(view):
    """`geometry` of a view in a few words, for a protocol."""
    told = f"random crop {view.area[0]:g} to {view.area[1]:g} of the area"
    told += f", flip {view.flip:g}" if view.flip else ", no flip"
    return told + (f", rotation {view.rotation:g}" if view.rotation else "")


def train(
    encoder,
    source,
    test_source,
    *,
    preprocessing,
    indices=None,
    recipe=None,
    start="random",
    epochs=30,
    min_steps=300,
    batch_size=64,
    optimizer="adamw",
    learning_rate=None,
    weight_decay=None,
    max_bad_fraction=0.01,
    seed=0,
    verbose=1,
):
    """Trains a copy of an encoder and a linear head on labelled images.

    Sets Keras's global seed (`keras.utils.set_random_seed(seed)`), so that on a CPU the
    same call gives the same number on the same machine; a GPU sums in an order of its
    own.

    Args:
        encoder: Keras model, images -> features `(batch, dim)`. It stays as it is.
        source: `data.Source` with labels.
        test_source: `data.Source` with labels, for the final score only.
        preprocessing: the `data.Preprocessing` of the test images.
        indices: images of `source` whose labels may be used (`labels.select`);
            `None`: all.
        recipe: views of the training images, of which the first is used; `None`:
            `crop_and_flip(preprocessing)`.
        start: `"random"`: only the encoder's configuration is used, and the copy starts
            from fresh weights; `"encoder"`: it starts from the encoder's (fine-tuning).
            All else is the same, so that the two may be compared.
        epochs: passes over these images, but at least `min_steps` steps.
        min_steps: see `epochs`; few labels would otherwise mean few steps.
        batch_size: images per step, at most the number of images.
        optimizer: `"adamw"`, or `"sgd"`: Nesterov momentum 0.9. Both with a cosine
            decay to 0.
        learning_rate: peak; `None`: 1e-3 for AdamW, 0.05 * batch_size / 256 for SGD
            (the fine-tuning value of SimCLR's appendix B.5).
        weight_decay: decoupled; `None`: 0.05 for AdamW, 0 for SGD.
        max_bad_fraction: share of unreadable images, of either source, that stops
            the training.
        seed: int, of the weights, the order and the views.
        verbose: 0 silent, 1 progress.

    Returns:
        `SupervisedResult`.

    Raises:
        ValueError: if labels are missing, an argument is out of range, the encoder
            cannot be copied, or too many images cannot be read.
    """
    _check_arguments(optimizer, start, epochs, min_steps, batch_size)
    if indices is not None:
        source = source.subset(np.asarray(indices))
    _check_labels(source, "training")
    _check_labels(test_source, "test")
    classes = np.unique(source.labels)
    batch_size = min(batch_size, source.num_images)
    per_epoch = source.num_images // batch_size
    epochs = max(epochs, -(-min_steps // per_epoch))
    if learning_rate is None:
        learning_rate = 1e-3 if optimizer == "adamw" else 0.05 * batch_size / 256
    encoder = segmenter.encoder_of(encoder)
    copy = untrained(encoder, seed)
    model = _model(copy, len(classes), preprocessing)
    if start == "encoder":
        copy.set_weights(encoder.get_weights())
    model.compile(
        _optimizer(optimizer, learning_rate, weight_decay, epochs * per_epoch),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    if recipe is None:
        recipe = crop_and_flip(preprocessing)
        name = "random crop and flip" if recipe[0].flip else "random crop"
    else:
        name = getattr(recipe, "name", None) or geometry_told(recipe[0])
    bad, bad_tests = (pipeline.BadFiles(max_bad_fraction) for _ in range(2))
    with bad_files_lib.explained(bad, bad_tests):
        history = model.fit(
            _batches(source, recipe, classes, batch_size, seed, bad),
            epochs=epochs,
            steps_per_epoch=per_epoch,
            shuffle=False,  # The dataset has its own order.
            verbose=0,
            callbacks=[_Bar(epochs * per_epoch)] if verbose else [],
        ).history
        accuracy = _accuracy(model, test_source, preprocessing, classes, bad_tests)
    protocol = (
        f"{_BEGINNINGS[start]}, {_NAMES[optimizer]}, learning rate "
        f"{learning_rate:g} cosine, {epochs * per_epoch:,} steps of {batch_size}, "
        f"recipe {name}, {source.num_images} train / {test_source.num_images} test "
        "images"
    )
    return SupervisedResult(accuracy, protocol, history, model)


def _model(encoder, num_classes, preprocessing):
    """An encoder, all of it to be trained, with a classifier behind it."""
    freezing.thaw(encoder)
    shape = (preprocessing.size, preprocessing.size, preprocessing.channels)
    if getattr(encoder, "inputs", None):  # A model with a `call` of its own has none.
        shape = encoder.input_shape[1:]
    images = keras.Input(shape)
    # float32 logits under mixed precision; a head at zero starts at chance level.
    head = keras.layers.Dense(
        num_classes, kernel_initializer="zeros", dtype="float32", name="head"
    )
    model = keras.Model(images, head(encoder(images)), name="supervised")
    # By which Keras scales the loss where it learns in float16.
    model.dtype_policy = keras.dtype_policies.get(copying.policy_of(encoder))
    return model


def _optimizer(name, learning_rate, weight_decay, steps):
    rate = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    if name == "adamw":
        decay = 0.05 if weight_decay is None else weight_decay
        made = keras.optimizers.AdamW(rate, weight_decay=decay)
    else:
        made = keras.optimizers.SGD(
            rate, momentum=0.9, nesterov=True, weight_decay=weight_decay or None
        )
    made.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return made


@running.as_written
def _batches(source, recipe, classes, batch_size, seed, bad_files):
    classes = tf.constant(classes, tf.int64)

    def image_and_class(batch):
        position = tf.searchsorted(classes, batch["label"])
        return batch["views"]["view_0"], position

    dataset = pipeline.multiview(
        source,
        [recipe[0].untiled()],
        batch_size=batch_size,
        seed=seed,
        bad_files=bad_files,
        with_labels=True,
    )
    return dataset.map(image_and_class, num_parallel_calls=tf.data.AUTOTUNE)


def _accuracy(model, source, preprocessing, classes, bad_files):
    dataset = pipeline.labeled(
        source, preprocessing, batch_size=256, bad_files=bad_files
    )
    logits = features_lib.extract(model, dataset)
    features_lib.check_labeled(logits, "The supervised baseline", "test")
    return float((classes[logits.values.argmax(axis=1)] == logits.labels).mean())


def _check_labels(source, part):
    labels_lib.check_single(source, "The supervised baseline")
    if source.labels is None or (np.asarray(source.labels) < 0).any():
        raise ValueError(
            f"The supervised baseline needs labels, but the {part} images of "
            f'{source.name!r} have none; open them with labels (folders: labels="'
            'folders") or leave this baseline out.'
        )


def _check_arguments(optimizer, start, epochs, min_steps, batch_size):
    if optimizer not in _NAMES:
        raise ValueError(
            f"Unknown optimizer {optimizer!r} of the supervised baseline; use one of "
            f"{', '.join(_NAMES)}."
        )
    given = {"epochs": epochs, "batch_size": batch_size, "min_steps": min_steps}
    checks.one_of({"start": start}, "start", tuple(ROWS))
    checks.whole(given, "epochs", "batch_size")
    checks.whole(given, "min_steps", least=0)


class _Bar(keras.callbacks.Callback):
    """One bar over all steps: epochs of few labels are too short for Keras's."""

    def __init__(self, steps):
        super().__init__()
        self._bar = progress.bar(
            total=steps, desc="supervised", unit="step", leave=False
        )

    def on_train_batch_end(self, batch, logs=None):
        self._bar.update()
        if logs:
            self._bar.set_postfix(loss=f"{float(logs['loss']):.3f}", refresh=False)

    def on_train_end(self, logs=None):
        self._bar.close()
