"""The images that an encoder is judged on: those of its run, or others."""

import dataclasses
from typing import Annotated, Any, Literal

from absl import logging

from tfssl import data as data_lib
from tfssl.data import labels as labels_lib
from tfssl.data.views import recipes
from tfssl.evaluation import judging, supervised
from tfssl.tasks import groups, recorded, resolve, runs
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
            ValueError: if images or labels are missing.
        """
        settings = self._settings(folder, preprocessing)
        train, test = resolve.sources(**settings)
        _check_labels(train, "training", verbose)
        _check_labels(test, "validation", verbose)
        return judging.Setting(
            train,
            test,
            preprocessing,
            _training_view(settings, preprocessing),
            max_bad_fraction=settings["max_bad_fraction"],
            seed=seed,
            verbose=verbose,
        )

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
            # Those that learn from labels take class folders as they are.
            task = runs.record_of(folder).get("task")
            settings["class_folders"] = task in ("finetune", "distill")
            if "data" in given:
                settings |= self._fitting(settings)
        else:
            _check_given(given)
            settings = {
                "bit_depth": 16 if preprocessing.max_value > 255 else 8,
                "max_bad_fraction": groups.Monitors.max_bad_fraction,
            }
        return settings | given | {"channels": preprocessing.channels}

    def _fitting(self, settings):
        """The run's options of one kind of data, without those of another kind."""
        kinds = map(data_lib.sources.kind_of, (self.data, self.validation_data))
        return {
            "data_args": data_lib.sources.fitting(
                self.data, settings["data_args"] or {}
            ),
            "data_dir": settings["data_dir"] if "tfds" in kinds else None,
        }


def _check_trained(folder):
    """Raises `ValueError` for the encoder of a run that never saw a gradient step."""
    record = runs.record_of(folder)
    if not (record.get("results") or {}).get("steps"):
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


def _training_view(settings, preprocessing):
    """The first view of the run's recipe; a recipe without a name is not stored."""
    name = settings.get("recipe")
    if "method" in settings and (name is None or name in recipes.RECIPES):
        return resolve.recipe(
            name, settings["method"], settings["hparams"], settings["image_size"]
        )[0]
    if name is not None:
        logging.warning(
            "The run's own recipe (%s) is not stored with it: the supervised baseline "
            "and the augmented probe use random crops and flips.",
            name,
        )
    return supervised.crop_and_flip(preprocessing)[0]
