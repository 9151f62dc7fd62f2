"""What a training of a segmenter is made of: its maps, its settings, its watch."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

from tfssl import data as data_lib
from tfssl import methods, models
from tfssl.data import pipeline
from tfssl.data.views import color, recipes
from tfssl.evaluation import segmentation, supervised
from tfssl.tasks import (
    classifying,
    epoch_judges,
    groups,
    judging_epochs,
    monitoring,
    trainer,
)
from tfssl.tasks.arguments import OneOf, Range
from tfssl.training import pixel_validation

_COLOURS = 3  # Channels of the images that encoders of several channels take.


@dataclasses.dataclass(frozen=True)
class Maps:
    """The map of classes among the channels of the images.

    Attributes:
        map_start: number of the channel of the first class; every class has one, to the
            last channel. None: the only map that the data names (the column
            `channels:NAME:mapN` of a manifest, the `labels` of the scenes).
        class_names: names of the classes, by number; None: those of the data.
    """

    map_start: groups.CountOrNone = None
    class_names: Sequence[str] | None = None

    def prepared(self, train, validation):
        """`MappedImages` of these sources.

        Args:
            train: `Source`.
            validation: `Source`, or None.

        Raises:
            ValueError: for images without a map, with several, with other names than
                classes, or validation images of other channels or another map.
        """
        if validation is not None and validation.channels != train.channels:
            raise ValueError(
                f"The validation images ({validation.name}) have {validation.channels} "
                f"channel(s), but {train.name} has {train.channels}; give images with "
                "the same maps."
            )
        found = self._found(train)
        if validation is not None and self.map_start is None:
            if not _alike(*train.maps.values(), *validation.maps.values()):
                raise ValueError(
                    "The map of classes has another first channel or other classes in "
                    f"{validation.name} ({_told(validation.maps)}) than in "
                    f"{train.name} ({_told(train.maps)}); give maps that are alike."
                )
        return MappedImages(train, validation, *found)

    def _found(self, source):
        """`(first channel, tuple of names)` of the map."""
        if self.map_start is not None:
            if source.channels < self.map_start + 2:
                raise ValueError(
                    f"map_start={self.map_start} received, but {source.name} has "
                    f"{source.channels} channel(s), expected a channel for each of two "
                    "or more classes from there on."
                )
            known = _numbers(source.channels - self.map_start)
            first = self.map_start
        else:
            if not source.maps:
                raise ValueError(
                    f"{source.name} has no maps of classes to learn from; give a "
                    "manifest with a column channels:NAME:mapN (PNG or TIFF files of "
                    "N classes), or images with a channel for each class and map_start."
                )
            if len(source.maps) > 1:
                raise ValueError(
                    f"{source.name} has the maps {', '.join(source.maps)}, expected "
                    "one; leave the columns of the others out."
                )
            ((first, known),) = source.maps.values()
        names = tuple(map(str, self.class_names or known))
        if len(names) != len(known):
            raise ValueError(
                f"class_names={','.join(names)} received, {len(names)} names, but the "
                f"maps of {source.name} have {len(known)} classes; name each of them."
            )
        return first, names


def _alike(*maps):
    """Whether these are two maps of the same channels and, where named, classes."""
    if len(maps) != 2:
        return False
    (first, names), (others_first, others) = maps
    same = (first, len(names)) == (others_first, len(others))
    return same and (names == others or _numbers(len(names)) in (names, others))


def _told(maps):
    """Where maps of classes are among the channels, and of which classes."""
    told = []
    for name, (first, names) in maps.items():
        known = "" if names == _numbers(len(names)) else f" ({', '.join(names)})"
        told.append(f"{name}: {len(names)} classes{known} from channel {first} on")
    return "; ".join(told) or "none"


def _numbers(count):
    """The names of classes that nobody named."""
    return tuple(map(str, range(count)))


@dataclasses.dataclass(frozen=True)
class MappedImages:
    """Images with a map of classes among their channels.

    Attributes:
        train: `Source` to learn from.
        validation: `Source` of the same channels, or None.
        map_start: int, the channel of the first class.
        class_names: tuple of texts, one for each channel of the map.
    """

    train: Any
    validation: Any
    map_start: int
    class_names: tuple

    @property
    def channels(self):
        """Channels of the image itself, which the encoder gets."""
        return min(_COLOURS, self.map_start)

    def kept(self, images):
        """The same, whose decoded images are kept as `groups.TrainingImages` say."""
        train, validation = map(images.keep, (self.train, self.validation))
        return dataclasses.replace(self, train=train, validation=validation)

    def preprocessing(self, of_encoder):
        """What prepares these images together with their further channels.

        Args:
            of_encoder: `data.Preprocessing` of the encoder.

        Returns:
            `data.Preprocessing` with the encoder's numbers for its channels; all others
            stay in [0, 1].

        Raises:
            ValueError: for an encoder of other images than stand before the map.
        """
        if of_encoder.channels != self.channels:
            raise ValueError(
                f"The encoder takes images of {of_encoder.channels} channel(s), but "
                f"those of {self.train.name} have {self.channels} before their maps; "
                "take an encoder of such images."
            )
        further = self.train.channels - self.channels
        return dataclasses.replace(
            of_encoder,
            channels=self.train.channels,
            max_value=self.train.max_value,
            mean=(*of_encoder.mean, *[0.0] * further),
            std=(*of_encoder.std, *[1.0] * further),
        )


@dataclasses.dataclass(frozen=True)
class Learning:
    """How a segmenter learns from its images.

    Attributes:
        recipe: the view, a name in `recipes.RECIPES` or a recipe of one view that
            leaves colours as they are; None takes a random crop and a mirror image. Its
            normalisation is the encoder's.
        image_size: pixels of the view; None takes the encoder's.
        augment: random views; off to look for mistakes.
        width: channels of the pyramid, a multiple of 16, see `models.Segmenter`.
        averaging: momentum of a moving average of the weights, which is then what is
            validated and saved; 0 is none, 0.999 usual.
        epochs: passes over the images; None takes 30, or as many as make 500 steps.
        batch_size: images per step, over all replicas together; None takes 64, or all
            images where there are fewer.
    """

    recipe: Annotated[str | Sequence[Any] | None, OneOf(recipes.RECIPES)] = None
    image_size: groups.ImageSize = None
    augment: bool = True
    width: groups.Count = 128
    averaging: Annotated[float, Range(0, 0.99999)] = 0.0
    epochs: groups.CountOrNone = None
    batch_size: groups.CountOrNone = None

    def view(self, prepared):
        """The recipe of one view of images with their maps.

        Args:
            prepared: `MappedImages.preprocessing`.

        Raises:
            ValueError: for a recipe of several views, in tiles, or one that changes
                colours.
        """
        given = self.recipe
        if given is None:
            view = supervised.crop_and_flip(prepared)
            given = recipes.Recipe(view, "crop_and_flip")
        given = recipes.get(given)
        name = getattr(given, "name", "custom")
        if len(given) != 1 or given[0] != given[0].untiled():
            raise ValueError(
                f"The recipe {name!r} has {len(given)} view(s), one of them in tiles "
                "or not, but a segmenter takes one whole view; choose another, or none."
            )
        view = given[0]
        changes = {
            "jitter": bool(color.active(view, _COLOURS)),
            **{key: getattr(view, key) > 0 for key in _OF_COLOURS},
        }
        found = [key for key, changed in changes.items() if changed]
        if found:
            raise ValueError(
                f"The recipe {name!r} changes colours ({', '.join(found)}), and with "
                "them the maps of classes, which are channels of the image; choose one "
                "of crops and flips alone, or none."
            )
        return given.scaled(prepared.size, mean=prepared.mean, std=prepared.std)


_OF_COLOURS = ("gray", "blur", "solarize", "rand_augment", "erase")


class Watch:
    """The monitors of a segmenter's training, as `monitoring.Watch`.

    Args:
        plan: `trainer.Plan`.
        validation: source of images with maps that judge, or None.
        prepared: `MappedImages.preprocessing`.
        every: int, epochs between two validations.
        max_bad_fraction: float, of the validation images.
        callbacks: Keras callbacks of the user's, called after the monitors.
    """

    best_by = pixel_validation.SCORE

    def __init__(
        self, plan, validation, prepared, *, every, max_bad_fraction, callbacks=()
    ):
        self._plan, self._validation, self._prepared = plan, validation, prepared
        self._every = every
        self._callbacks = list(callbacks)
        self.told = []
        self.bad_files = [pipeline.BadFiles(max_fraction=max_bad_fraction)]

    def variables(self):
        """Nothing is saved beside the model."""
        return {}

    def judging(self):
        """As of `monitoring.Watch`."""
        source, whole = self._validation, self._prepared.crop == 1
        return source and epoch_judges.judging(source, whole_images=whole)

    def callbacks(self, model, trainer, resumed):
        """As of `monitoring.Watch`."""
        found = []
        if self._validation is not None:
            test = data_lib.labeled(
                self._validation,
                self._prepared,
                batch_size=segmentation.images_at_once(
                    trainer.images_at_once, model.encoder.image_size, model.num_classes
                ),
                bad_files=self.bad_files[0],
            )
            found.append(
                pixel_validation.PixelValidation(
                    test,
                    every=self._every,
                    epochs=self._plan.epochs,
                    workers=trainer.workers,
                )
            )
        return monitoring.in_order(found, trainer, self.bad_files, self._callbacks)


@dataclasses.dataclass(frozen=True)
class Course:
    """How segmenters are trained on some images, whatever they begin with.

    Attributes:
        mapped: `MappedImages`.
        learning: `Learning`.
        preprocessing: `data.Preprocessing` of the encoder, of whole images.
        seed: int.
        strategy: `tf.distribute.Strategy`.
        optimization: `groups.Optimization`.
        devices: `groups.Devices`.
        saves: `classifying.Saving`.
        monitors: `judging_epochs.Validating`.
        hooks: `groups.Hooks`.
    """

    mapped: MappedImages
    learning: Learning
    preprocessing: data_lib.Preprocessing
    seed: int
    strategy: Any
    optimization: groups.Optimization
    devices: groups.Devices
    saves: classifying.Saving
    monitors: judging_epochs.Validating
    hooks: groups.Hooks

    def plan(self, begins_with):
        """The `trainer.Plan`.

        Args:
            begins_with: what tells the encoder from another.
        """
        images, learning = self.mapped.train, self.learning
        batch_size, epochs = classifying.lengths(
            learning.batch_size,
            learning.epochs,
            images.num_images,
            self.strategy.num_replicas_in_sync,
        )
        return trainer.Plan(
            images,
            learning.view(self.mapped.preprocessing(self.preprocessing)),
            epochs=epochs,
            batch_size=batch_size,
            seed=self.seed,
            augment=learning.augment,
            bad_files=pipeline.BadFiles(max_fraction=self.monitors.max_bad_fraction),
            task="train_segmenter",
            own_preprocessing=dataclasses.replace(
                self.preprocessing, max_value=images.max_value
            ),
            compared={
                "encoder": begins_with,
                "map_start": self.mapped.map_start,
                "class_names": list(self.mapped.class_names),
            },
        )

    def trainer(self, out, given, begins_with):
        """The `trainer.Trainer` of a segmenter; the arguments are those of `train`."""
        return classifying.trainer_of(self, self.plan(begins_with), out, given)

    def train(self, out, given, network_of, begins_with, freeze="none"):
        """Trains a segmenter in a folder.

        Args:
            out: the folder.
            given: dict, the arguments of the task, for the record.
            network_of: function without arguments -> the encoder, to be trained.
            begins_with: as for `plan`.
            freeze: see `methods.Segmentation`.

        Returns:
            `(runs.Run, trainer.Trainer)`.
        """
        training = self.trainer(out, given, begins_with)
        plan, mapped = training.plan, self.mapped
        every = classifying.spaced(plan.epochs)
        watch = Watch(
            plan,
            mapped.validation,
            mapped.preprocessing(self.preprocessing),
            every=self.monitors.every(plan, mapped.validation, every),
            max_bad_fraction=self.monitors.max_bad_fraction,
            callbacks=self.hooks.callbacks,
        )

        def make_model():
            return methods.Segmentation(
                models.Segmenter(
                    network_of(),
                    mapped.class_names,
                    image_size=self.preprocessing.size,
                    width=self.learning.width,
                ),
                map_start=mapped.map_start,
                freeze=freeze,
                averaging=self.learning.averaging,
            )

        return training.train(make_model, watch), training
