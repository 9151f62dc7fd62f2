"""The images that an encoder is judged on: those of its run, or others."""

import dataclasses
from typing import Annotated, Any, Literal

import numpy as np
from absl import logging

from tfssl import data as data_lib
from tfssl.data import labels as labels_lib
from tfssl.data.sources import first_channels
from tfssl.data.views import recipes
from tfssl.evaluation import judging, supervised
from tfssl.tasks import cuts, folder_classes, groups, recorded, resolve, runs
from tfssl.tasks.arguments import Range


@dataclasses.dataclass(frozen=True)
class JudgedImages:
    """Where the images are.

    Attributes:
        data: labelled training images, given as for `tfssl.pretrain`; None takes the
            run's.
        split: part of `data`; None takes the run's.
        validation_data: labelled test images, whose classes are matched by name; None
            takes the run's.
        validation_split: part of `validation_data`, alone of `data`; None takes the
            run's.
        labels: where labels come from, `"auto"`, `"none"` or `"folders"`; None takes
            the run's, `"auto"` without a run.
        bit_depth: 8 or 16, of image files; None takes the run's, or what the
            preprocessing is for.
        data_dir: folder of prepared TFDS data; None takes the run's.
        data_args: arguments of one kind of data, as for `tfssl.pretrain`; None takes
            the run's, if they are for this kind of data.
        max_bad_fraction: share of unreadable images that stops it; None takes the
            run's, 0.01 without a run.
    """

    data: Any = None
    split: str | None = None
    validation_data: Any = None
    validation_split: str | None = None
    labels: Literal["auto", "none", "folders"] | None = None
    bit_depth: Literal[8, 16] | None = None
    data_dir: str | None = None
    data_args: dict | None = None
    max_bad_fraction: Annotated[float | None, Range(0, 1)] = None

    def open(self, folder, preprocessing, *, seed, verbose):
        """What is the same for all that is judged on them.

        Args:
            folder: of the run, or None for an encoder that came from elsewhere.
            preprocessing: `Preprocessing` of the encoder.
            seed: int.
            verbose: 0 or 1.

        Returns:
            `judging.Setting`.

        Raises:
            ValueError: if images or labels are missing, or there is one class only.
        """
        settings = self._settings(folder, preprocessing)
        train, test = self._sources(folder, settings)
        if settings["channels"] != preprocessing.channels:
            train, test = (
                source and first_channels.of(source, preprocessing.channels)
                for source in (train, test)
            )
        _check_labels(train, "training", verbose)
        _check_labels(test, "validation", verbose)
        _check_classes(train)
        return judging.Setting(
            train,
            test,
            preprocessing,
            _training_view(settings, preprocessing),
            max_bad_fraction=settings["max_bad_fraction"],
            seed=seed,
            verbose=verbose,
        )

    def _sources(self, folder, settings):
        """The images; what is held out of those of a run, as the run held it out."""
        beside = settings.get("validation_data"), settings.get("validation_split")
        held_out = settings.get("validation_fraction")
        if not held_out or any(value is not None for value in beside):
            return self._opened(settings)
        record = runs.record_of(folder)
        trained = (record.get("made") or {}).get("images", {}).get("identity")
        if record.get("task", "pretrain") != "pretrain":
            trained = None  # It may have learned from some of the images only.
        # The run may have had no labels, also where its settings would take some now.
        ways = dict.fromkeys((record["settings"].get("labels", "auto"), "none"))
        if data_lib.sources.kind_of(settings["data"]) != "folder":
            ways.pop("folders", None)
        for cut in ways:
            train, test = self._opened(settings, cut_labels=cut)
            found = trained in (None, train.identity())
            if found:
                break
        cuts.check_own(folder, settings, train)
        if found:
            return train, test
        if self.data is None and self.split is None:
            raise ValueError(
                f"The images of {folder!r} are others now than those it was trained on "
                f"({train.num_images:,} of {train.name}), and what is held out of them "
                "may have trained; give the images back, or others as "
                "validation_data=… (--validation_data)."
            )
        logging.warning(
            "%s are other images than those that %s was trained on: some of what this "
            "evaluation holds out of them may have trained.",
            train.name,
            folder,
        )
        return resolve.sources(**settings)

    def _opened(self, settings, **others):
        """`resolve.sources`, which says which images of a run without labels want."""
        try:
            return resolve.sources(**settings, **others)
        except data_lib.sources.NoClassFolder as error:
            own = self.data is None and self.validation_data is None
            if not own or settings.get("online_probe_data") is None:
                raise
            raise ValueError(
                f"The run trained without labels on {settings['data']}, which holds "
                "image files outside of class folders; give labelled images as data=… "
                "(--data), such as those of its online probe."
            ) from error

    def _settings(self, folder, preprocessing):
        """Those of the run, with what is given here instead."""
        # A flag that is not given makes an empty dict.
        given = {
            name: value
            for name, value in vars(self).items()
            if value is not None and not (isinstance(value, dict) and not value)
        }
        if folder is not None:
            settings = recorded.settings_of(folder)
            own = {"data", "validation_data"} - set(given)
            recorded.check_can_be_opened(folder, settings, sorted(own))
            _check_trained(folder)
            task = runs.record_of(folder).get("task")
            settings["class_folders"] = task in folder_classes.TAKEN_BY
            settings |= self._fitting(settings)
            depth = resolve.bit_depth(settings["bit_depth"], preprocessing)
            settings["bit_depth"] = depth
            if task != "train_segmenter" or self.data is not None:
                settings["channels"] = preprocessing.channels
        else:
            _check_given(given)
            settings = {
                "bit_depth": resolve.bit_depth(8, preprocessing),
                "channels": preprocessing.channels,
                "max_bad_fraction": groups.Monitors.max_bad_fraction,
            }
        return settings | given

    def _fitting(self, settings):
        """The run's options of one kind of data, without those of another kind."""
        kind_of, found = data_lib.sources.kind_of, {}
        before = _kind_in(settings, "data")
        if self.data is not None:
            kinds = [kind_of(self.data), kind_of(self.validation_data)]
            given = settings["data_args"] or {}
            found["data_args"] = data_lib.sources.fitting(self.data, given)
            found["data_dir"] = settings["data_dir"] if "tfds" in kinds else None
            if self.validation_data is None:
                kinds.append(_kind_in(settings, "validation_data"))
            if settings["labels"] == "folders" and "folder" not in kinds:
                found["labels"] = "auto"
            if kind_of(self.data) != before:
                found["split"] = None
                if settings["validation_data"] is None:
                    found["validation_split"] = None
        if self.validation_data is not None:
            beside = _kind_in(settings, "validation_data") or before
            if kind_of(self.validation_data) != beside:
                found["validation_split"] = None
        return found


def _kind_in(settings, name):
    """The kind of a run's data, or None for what was in memory or is there no more."""
    try:
        return data_lib.sources.kind_of(settings[name])
    except ValueError:
        return None


def _check_trained(folder):
    """Raises `ValueError` for the encoder of a run that never saw a gradient step."""
    if not runs.steps_of(runs.record_of(folder)):
        raise ValueError(
            f"The encoder of {folder!r} has not been trained: its run.json records no "
            "step. Finish the pre-training; the untrained encoder is a baseline of "
            "every evaluation (random_encoder)."
        )


def _check_given(given):
    """An encoder that came from elsewhere names no images."""
    missing = [] if "data" in given else ["data"]
    if not {"validation_data", "validation_split"} & set(given):
        missing.append("validation_data")
    if missing:
        names = " and ".join(f"{name}=… (--{name})" for name in missing)
        raise ValueError(
            "An encoder that is not the folder of a run names no images to be judged "
            f"on; pass {names}."
        )


def _check_labels(source, part, verbose):
    """Raises unless some images have a label; says how many, if not all of them."""
    labels_lib.check_single(source, "The evaluation")
    rows = labels_lib.labelled(source)
    if not len(rows):
        missing = "images" if source is None else "labels"
        raise ValueError(
            f"The evaluation needs labelled {part} images, but there are no "
            f"{missing}; give --validation_data or --validation_split, and "
            "--labels=folders where folders are classes."
        )
    if verbose and len(rows) < source.num_images:
        print(
            f"Evaluation: the {len(rows):,} of {source.num_images:,} {part} images of "
            f"{source.name} that have a label"
        )


def _check_classes(source):
    """Raises unless there is something to tell apart."""
    classes = np.unique(source.labels[labels_lib.labelled(source)])
    if len(classes) < 2:
        raise ValueError(
            f"The training images ({source.name}) have labels of one class only "
            f"({classes[0]}), expected two or more to tell apart; give --data with "
            "several classes."
        )


def _training_view(settings, preprocessing):
    """The first view of the run's recipe, which ends as test images do.

    A recipe without a name is not stored.
    """
    name = settings.get("recipe")
    if "method" in settings and (name is None or name in recipes.RECIPES):
        first, *_ = resolve.recipe(
            name, settings["method"], settings["hparams"], settings["image_size"]
        )
        as_tested = ("size", "resize", "antialias", "mean", "std")
        return first.untiled().scaled(
            **{field: getattr(preprocessing, field) for field in as_tested}
        )
    if name is not None:
        logging.warning(
            "The run's own recipe (%s) is not stored with it: the supervised baseline "
            "and the augmented probe use random crops and flips.",
            name,
        )
    return supervised.crop_and_flip(preprocessing)[0]
