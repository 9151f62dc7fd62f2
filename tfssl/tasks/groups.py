"""Groups of arguments that several tasks take, and what each group makes of them."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import keras

from tfssl import checks, optimizers, replicas
from tfssl.data import service
from tfssl.data.sources import image_headers
from tfssl.data.views import device as views
from tfssl.optimizers import anew, schedules, slots
from tfssl.tasks import kept_images, resolve
from tfssl.tasks.arguments import Above, OneOf, Range
from tfssl.training import strategy as strategies

Count = Annotated[int, Range(1)]
CountOrNone = Annotated[int | None, Range(1)]
CountOrZero = Annotated[int, Range(0)]
NotNegative = Annotated[float, Range(0)]
Positive = Annotated[float, Above(0)]
Share = Annotated[float, Range(0, 1)]
Seed = Annotated[int, Range(0)]
Verbose = Literal[0, 1]
# A square view of more pixels than the largest image that is decoded is refused.
LARGEST_SIDE = math.isqrt(image_headers.MAX_PIXELS)
ImageSize = Annotated[int | None, Range(1, LARGEST_SIDE)]


@dataclasses.dataclass(frozen=True)
class Images:
    """How images are opened, see `data.open_source`.

    Attributes:
        split: part of the data, for sources that have parts (TFDS, manifests, digits,
            scenes).
        labels: where labels come from: `"auto"`, where the data has true ones,
            `"none"`, or `"folders"`, the first folder level is the class (of validation
            images and others beside, where they are a folder). Self-supervised methods
            never train on them; they feed monitors and evaluations.
        channels: 1, 3 or 4, what image files are decoded to; None is the data's own. Of
            a manifest with further files 1, 3 or 4 leaves these out.
        bit_depth: 8 or 16, of image files; a trained encoder of 16 bits gets 16.
        data_dir: folder of prepared TFDS data, for `tfds:NAME`.
        data_args: arguments of one kind of data: `follow_links=True` (folders),
            `root=FOLDER` (manifests), `verify=True` (records). They hold for other
            data of the same kind too.
    """

    split: str | None = None
    labels: Literal["auto", "none", "folders"] = "auto"
    channels: CountOrNone = None
    bit_depth: Literal[8, 16] = 8
    data_dir: str | None = None
    data_args: dict | None = None

    def open(self, data, **others):
        """The `Source` of `data`; `others` take the place of fields."""
        return resolve.source(data, **vars(self) | others)


@dataclasses.dataclass(frozen=True)
class TrainingImages(Images):
    """How images are opened that are read in every epoch.

    Attributes:
        cache_gib: memory for decoded images, in GiB, of each set of images and in each
            process: image files that fit are decoded once, when the first epoch
            begins, and not in every epoch. 0 keeps none; None takes a quarter of the
            free memory. See docs/data.md.
    """

    cache_gib: Annotated[float | None, Range(0)] = None

    def open(self, data, **others):
        """As `Images.open`; these images are not kept."""
        options = {k: v for k, v in vars(self).items() if k != "cache_gib"}
        return resolve.source(data, **options | others)

    def keep(self, source):
        """A source (or None), whose decoded images are kept where they fit.

        Raises:
            ValueError: if they do not fit what was asked for.
        """
        return kept_images.keep(source, self.cache_gib)


@dataclasses.dataclass(frozen=True)
class Validation:
    """Labelled images that never train, for monitors and evaluations.

    Attributes:
        validation_data: where they are, given like `data`. Their classes are matched
            by name with those of `data`. Images that train are refused.
        validation_split: their part; alone, it is a part of `data`.
        validation_fraction: part of `data` to hold out of training instead. It is
            class-balanced and takes labelled images, where some are not.
    """

    validation_data: Any = None
    validation_split: str | None = None
    validation_fraction: Annotated[float, Range(0, 0.99)] = 0.0

    def sources(self, data, images, seed, **others):
        """`(training source, validation source or None)`.

        Args:
            data: the training images.
            images: `Images`.
            seed: int, of the hold-out.
            **others: further arguments of `resolve.sources`.
        """
        return resolve.sources(
            data=data, seed=seed, **vars(images), **vars(self), **others
        )


@dataclasses.dataclass(frozen=True)
class Optimization:
    """The optimizer and its schedules.

    Attributes:
        optimizer: key of `optimizers.OPTIMIZERS`, or a Keras optimizer, whose own
            learning rate and weight decay then hold: it is made anew for the training.
        optimizer_args: further arguments of its class
            (`{"momentum_form": "adapted"}`).
        learning_rate: base rate, scaled by `lr_scaling`.
        lr_scaling: `"linear"` (times batch/256), `"sqrt"` (times sqrt(batch)) or
            `"none"`.
        lr_schedule: after the warm-up: `"cosine"`, half a cosine, `"cosine_epochs"`,
            the same, falling once per epoch, or `"steps"`, drops at `lr_drops` (without
            them a constant rate).
        lr_start: rate at the beginning of the warm-up, as a share of the peak. SwAV
            at batch 4096: 0.0625.
        lr_final: rate at the end of the cosine, as a share of the peak. SwAV: 0.001.
        lr_drops: epochs from which on the rate is multiplied once more by
            `lr_drop_factor`. MoCo v1: 120 and 160.
        lr_drop_factor: the factor at each of `lr_drops`.
        weight_decay: weight decay, in the form of the optimizer's class.
        weight_decay_final: weight decay at the end of half a cosine over all steps that
            begins at `weight_decay`; None keeps it. For `adamw`. DINO: 0.04 to 0.4.
        warmup_epochs: epochs of linear warm-up.
    """

    optimizer: Annotated[
        str | keras.optimizers.Optimizer, OneOf(optimizers.OPTIMIZERS)
    ] = "lars"
    optimizer_args: dict | None = None
    learning_rate: NotNegative = 0.3
    lr_scaling: Literal[schedules.RULES] = "linear"
    lr_schedule: Literal["cosine", "cosine_epochs", "steps"] = "cosine"
    lr_start: NotNegative = 0.0
    lr_final: NotNegative = 0.0
    lr_drops: Sequence[float] | None = None
    lr_drop_factor: Positive = 0.1
    weight_decay: NotNegative = 1e-6
    weight_decay_final: Annotated[float | None, Range(0)] = None
    warmup_epochs: NotNegative = 10.0

    def make(self, batch_size, epochs, steps_per_epoch):
        """A Keras optimizer for this training.

        Raises:
            ValueError: for arguments that its class does not take, or a Keras optimizer
                that has trained another model or cannot be made anew.
        """
        if not isinstance(self.optimizer, str):
            if slots.innermost(self.optimizer).built:
                raise ValueError(
                    f"optimizer={type(self.optimizer).__name__} received, which "
                    "belongs to another training; make a new one for every training."
                )
            return anew.made(self.optimizer)
        given = self.optimizer_args or {}
        elsewhere = [key for key in given if key in ("learning_rate", "weight_decay")]
        if elsewhere:
            raise ValueError(
                f"optimizer_arg {elsewhere[0]!r} received, but it is a setting of its "
                f"own; give {elsewhere[0]}={given[elsewhere[0]]!r} instead."
            )
        with resolve.refusals(self.optimizer, given):
            return optimizers.build(
                self.optimizer,
                learning_rate=self.schedule(batch_size, epochs, steps_per_epoch),
                weight_decay=self.decay(epochs * steps_per_epoch),
                **given,
            )

    def decay(self, total_steps):
        """The weight decay: a number, or a schedule by step."""
        if self.weight_decay_final is None:
            return self.weight_decay
        return schedules.WarmupCosine(
            self.weight_decay, 0, total_steps, final=self.weight_decay_final
        )

    def schedule(self, batch_size, epochs, steps_per_epoch):
        """The learning rate by step."""
        if not 0 <= self.warmup_epochs < epochs:
            expected = f"from 0 to less than epochs={epochs}; train longer or give less"
            raise checks.refused("warmup_epochs", self.warmup_epochs, expected)
        peak = self.peak(batch_size)
        steps = round(self.warmup_epochs * steps_per_epoch)
        warmup = dict(warmup_steps=steps, start=peak * self.lr_start)
        if self.lr_schedule == "steps":
            return schedules.WarmupSteps(
                peak,
                boundaries=[round(e * steps_per_epoch) for e in self.lr_drops or ()],
                factor=self.lr_drop_factor,
                **warmup,
            )
        return schedules.WarmupCosine(
            peak,
            total_steps=epochs * steps_per_epoch,
            final=peak * self.lr_final,
            hold=steps_per_epoch if self.lr_schedule == "cosine_epochs" else 1,
            **warmup,
        )

    def peak(self, batch_size):
        """The rate after the warm-up."""
        return schedules.scaled_rate(self.learning_rate, batch_size, self.lr_scaling)

    def told(self, batch_size):
        """A line for the start of a run."""
        if not isinstance(self.optimizer, str):
            return f"{slots.innermost(self.optimizer).name}, with its own learning rate"
        peak = self.peak(batch_size)
        return (
            f"{self.optimizer}: base rate {self.learning_rate:g}, {self.lr_scaling} "
            f"scaling -> {peak:g}; warm-up {self.warmup_epochs:g} epochs, then "
            f"{self._after_warmup(peak)}{self._changing_decay()}"
        )

    def _changing_decay(self):
        if self.weight_decay_final is None:
            return ""
        return f"; weight decay {self.weight_decay:g} to {self.weight_decay_final:g}"

    def _after_warmup(self, peak):
        if self.lr_schedule != "steps":
            by_epochs = self.lr_schedule == "cosine_epochs"
            falls = ", falling once per epoch" if by_epochs else ""
            return f"cosine to {peak * self.lr_final:g}{falls}"
        if not self.lr_drops:
            return "constant"
        drops = ", ".join(f"{epoch:g}" for epoch in self.lr_drops)
        return f"times {self.lr_drop_factor:g} at epoch {drops}"


@dataclasses.dataclass(frozen=True)
class Devices:
    """What computes, and in which arithmetic.

    Attributes:
        strategy: `"default"` (one device), `"mirrored"` (all GPUs of this host),
            `"multi_worker"` (several hosts, see docs/distributed.md) or `"tpu"`.
        num_replicas: devices of `mirrored`; None is all.
        tpu: name or address of the TPU.
        data_service: hosts that make the views, `"grpc://host:port"`, several with
            commas between. See docs/distributed.md.
        augment_on: where colour, blur and normalising of the views are computed: on the
            `"host"`, or on the `"device"`, from whole numbers, which travel there in a
            quarter of the bytes; `"auto"` is the device, unless it is a CPU. The views
            are the same but for rounding, see docs/views.md.
        images_on: where the training images lie: on the `"host"`, or on each
            `"device"`, which then makes the views from the beginning: of images of one
            size of at most 64 pixels, see docs/views.md. `"auto"` is the device if it
            is a GPU, they take at most 1 GiB of it, and the recipe can be made there.
        precision: `"float32"`, `"mixed_bfloat16"` or, not on TPUs, `"mixed_float16"`.
        jit_compile: compile the step with XLA, or its parts where there are several
            devices; `"auto"` does on GPUs.
        remat: compute activations again in the backward pass instead of keeping them,
            all inside of the encoder's stem and of each residual block: about half
            of the memory, a third to a half more time, the same result. For encoders
            of `models.ENCODERS`; see docs/performance.md.
        steps_per_execution: steps per call into TensorFlow; must divide the steps of
            an epoch.
    """

    strategy: Literal[strategies.STRATEGIES] = "default"
    num_replicas: CountOrNone = None
    tpu: str | None = None
    data_service: str | None = None
    augment_on: Literal["auto", *views.PLACES] = "auto"
    images_on: Literal["auto", *views.PLACES] = "auto"
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    jit_compile: bool | Literal["auto"] = "auto"
    remat: bool = False
    steps_per_execution: Count = 1

    def __post_init__(self):
        if self.data_service:
            service.addresses(self.data_service)  # Raises, if these are none.
        if self.strategy == "tpu" and self.precision == "mixed_float16":
            raise ValueError(
                "precision='mixed_float16' received with strategy='tpu', whose half "
                "precision is bfloat16; use precision='mixed_bfloat16'."
            )

    def make_strategy(self):
        """The `tf.distribute.Strategy`, before TensorFlow runs anything."""
        return strategies.make(
            self.strategy, num_replicas=self.num_replicas, tpu=self.tpu
        )

    def place_of_views(self, strategy):
        """Where the views are finished: `"host"` or `"device"`."""
        if self.augment_on != "auto":
            return self.augment_on
        return "host" if replicas.kind_of_devices(strategy) == "CPU" else "device"


@dataclasses.dataclass(frozen=True)
class Saving:
    """Where a training starts, and when it saves.

    Attributes:
        resume: continue from the newest checkpoint in `out`, if there is one.
        allow_changes: names of settings that may differ from those with which the run
            in `out` was begun, though another result comes of them. `run.json` lists
            such changes.
        init_from: run or checkpoint whose weights start this training.
        checkpoint_epochs: epochs between checkpoints.
        checkpoint_steps: save also every so many steps.
        checkpoint_minutes: save also after so many minutes.
        keep: newest checkpoints to keep; the best by kNN stays too.
    """

    resume: bool = True
    allow_changes: Sequence[str] = ()
    init_from: str | None = None
    checkpoint_epochs: Count = 1
    checkpoint_steps: CountOrNone = None
    checkpoint_minutes: Annotated[float | None, Range(0)] = None
    keep: Count = 3


@dataclasses.dataclass(frozen=True)
class Monitors:
    """What watches a pre-training and never trains it.

    Attributes:
        knn_epochs: epochs between kNN accuracies on the validation images; 0 is off.
        knn_k: neighbours.
        knn_temperature: temperature of the vote.
        online_probe_epochs: epochs between accuracies of a linear classifier that is
            trained beside the encoder and does not touch it; 0 is off.
        online_probe_data: labelled images that it trains on, given like `data`, none of
            them for validation; None takes the training images, if they have labels.
        online_probe_split: their part; alone, it is a part of `data`.
        online_probe_steps: training steps between two steps of that classifier.
        watch_gradients: whether each epoch's line has `largest_gradient`, the largest
            absolute value in the gradients of its steps, whose jumps tell an unstable
            training; see docs/runs.md for what it costs.
        max_bad_fraction: share of unreadable images that stops the run.
        stop_on_collapse: stop, rather than warn, on a collapsed embedding.
    """

    knn_epochs: CountOrZero = 0
    knn_k: Count = 20
    knn_temperature: Positive = 0.1
    online_probe_epochs: CountOrZero = 0
    online_probe_data: Any = None
    online_probe_split: str | None = None
    online_probe_steps: Count = 1
    watch_gradients: bool = False
    max_bad_fraction: Share = 0.01
    stop_on_collapse: bool = False


@dataclasses.dataclass(frozen=True)
class Hooks:
    """What whoever starts a training has called, and is told.

    Attributes:
        callbacks: Keras callbacks of your own, after the monitors and on every worker.
            An error in one ends the training; so does, with all results, one that sets
            `model.stop_training`, and a later start trains on.
        on_accept: function without arguments, called on the chief before any step.
        verbose: 0 silent, 1 a progress bar where a person watches (in a log file as
            2), 2 one line per epoch, and one a minute in long epochs.
    """

    callbacks: Sequence[keras.callbacks.Callback] = ()
    on_accept: Callable | None = None
    verbose: Literal[0, 1, 2] = 1
