"""Pre-trains an encoder on unlabelled images.

    python -m pipelines.pretrain --flagfile=pipelines/recipes/simclr_digits.flags
    tfssl-pretrain --data=photos/ --out=runs/photos --epochs=100

All batch sizes are global. A second start with the same --out continues an
interrupted run. Recipes are flagfiles; flags after --flagfile override them.
"""

import sys

from absl import flags

from pipelines import command
from tfssl import files, methods, models, optimizers
from tfssl.data import recipes
from tfssl.tasks import pretrain, resolve
from tfssl.training import strategy

_DATA = flags.DEFINE_string(
    "data",
    "digits",
    command.DATA_HELP,
)
_SPLIT = flags.DEFINE_string("split", None, "Part of --data (TFDS, manifests, digits).")
_LABELS = flags.DEFINE_enum(
    "labels",
    "auto",
    ["auto", "none", "folders"],
    "Labels for monitors and evaluation, never for training.",
)
_CHANNELS = flags.DEFINE_integer("channels", None, "Channels; default the data's own.")
_BIT_DEPTH = flags.DEFINE_enum("bit_depth", "8", ["8", "16"], "Of image files.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of prepared TFDS data.")
_DATA_ARG = flags.DEFINE_multi_string("data_arg", None, command.DATA_ARG_HELP)
_VALIDATION_DATA = flags.DEFINE_string(
    "validation_data", None, "Labelled images for the kNN monitor."
)
_VALIDATION_SPLIT = flags.DEFINE_string("validation_split", None, "Their part.")
_VALIDATION_FRACTION = flags.DEFINE_float(
    "validation_fraction",
    0.0,
    "Hold out this part of --data instead, class-balanced.",
    lower_bound=0.0,
    upper_bound=0.9,
)
_OUT = flags.DEFINE_string("out", "runs/pretrain", "Folder of the run.")
_METHOD = flags.DEFINE_enum(
    "method", "simclr", sorted(methods.METHODS), "Self-supervised method."
)
_HPARAM = flags.DEFINE_multi_string(
    "hparam", None, "Argument of the method, name=value; repeatable."
)
_ENCODER = flags.DEFINE_string(
    "encoder",
    "resnet18",
    f"One of {', '.join(models.ENCODERS)}, keras.applications.NAME, or a .keras file.",
)
_ENCODER_ARG = flags.DEFINE_multi_string(
    "encoder_arg", None, "Argument of the encoder, name=value; repeatable."
)
_RECIPE = flags.DEFINE_enum(
    "recipe", None, sorted(recipes.RECIPES), "Views; default the method's own."
)
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", None, "Pixels of the largest view.", lower_bound=1
)
_AUGMENT = flags.DEFINE_bool("augment", True, "Random views; off to look for errors.")
_EPOCHS = flags.DEFINE_integer("epochs", 100, "Passes over the data.", lower_bound=1)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 256, "Images per step over all replicas.", lower_bound=1
)
_OPTIMIZER = flags.DEFINE_enum(
    "optimizer", "lars", sorted(optimizers.OPTIMIZERS), "Optimizer."
)
_OPTIMIZER_ARG = flags.DEFINE_multi_string(
    "optimizer_arg", None, "Argument of the optimizer, name=value; repeatable."
)
_LEARNING_RATE = flags.DEFINE_float(
    "learning_rate", 0.3, "Base rate, see --lr_scaling.", lower_bound=0.0
)
_LR_SCALING = flags.DEFINE_enum(
    "lr_scaling",
    "linear",
    ["linear", "sqrt", "none"],
    "Times batch/256, times sqrt(batch), or as it is.",
)
_LR_SCHEDULE = flags.DEFINE_enum(
    "lr_schedule",
    "cosine",
    resolve.LR_SCHEDULES,
    "After the warm-up: half a cosine, by steps or by epochs, or drops at --lr_drops "
    "(none: constant).",
)
_LR_START = flags.DEFINE_float(
    "lr_start", 0.0, "First rate of the warm-up, share of the peak.", lower_bound=0.0
)
_LR_FINAL = flags.DEFINE_float(
    "lr_final", 0.0, "Last rate of the cosine, share of the peak.", lower_bound=0.0
)
_LR_DROPS = flags.DEFINE_list("lr_drops", [], "Epochs of --lr_schedule=steps.")
_LR_DROP_FACTOR = flags.DEFINE_float(
    "lr_drop_factor", 0.1, "The rate's factor at each of them.", lower_bound=0.0
)
_WEIGHT_DECAY = flags.DEFINE_float(
    "weight_decay", 1e-6, "Weight decay.", lower_bound=0.0
)
_WARMUP_EPOCHS = flags.DEFINE_float(
    "warmup_epochs", 10.0, "Epochs of linear warm-up.", lower_bound=0.0
)
_STRATEGY = flags.DEFINE_enum(
    "strategy", "default", strategy.STRATEGIES, "Which devices train."
)
_NUM_REPLICAS = flags.DEFINE_integer(
    "num_replicas", None, "Devices for mirrored; default all.", lower_bound=1
)
_TPU = flags.DEFINE_string("tpu", None, "Name or address of the TPU.")
_DATA_SERVICE = flags.DEFINE_string(
    "data_service",
    None,
    "Hosts that make the views: grpc://host:port, several with commas between.",
)
_PRECISION = flags.DEFINE_enum(
    "precision", "float32", pretrain.PRECISIONS, "Arithmetic of the step."
)
_JIT = flags.DEFINE_flag(
    command.Switch("jit_compile", "auto", "XLA for the step; auto: on one GPU.")
)
_STEPS_PER_EXECUTION = flags.DEFINE_integer(
    "steps_per_execution", 1, "Steps per call; must divide an epoch.", lower_bound=1
)
_SEED = flags.DEFINE_integer("seed", 0, "Of weights, order and views.")
_RESUME = flags.DEFINE_bool("resume", True, "Continue the run found in --out.")
_INIT_FROM = flags.DEFINE_string(
    "init_from", None, "Run or checkpoint whose weights start this training."
)
_CHECKPOINT_EPOCHS = flags.DEFINE_integer(
    "checkpoint_epochs", 1, "Epochs between checkpoints.", lower_bound=1
)
_CHECKPOINT_STEPS = flags.DEFINE_integer(
    "checkpoint_steps", None, "Save also every so many steps.", lower_bound=1
)
_CHECKPOINT_MINUTES = flags.DEFINE_float(
    "checkpoint_minutes", None, "Save also after so many minutes.", lower_bound=0.0
)
_KEEP = flags.DEFINE_integer("keep", 3, "Newest checkpoints to keep.", lower_bound=1)
_KNN_EPOCHS = flags.DEFINE_integer(
    "knn_epochs", 0, "Epochs between kNN evaluations; 0 is off.", lower_bound=0
)
_KNN_K = flags.DEFINE_integer("knn_k", 20, "Neighbours.", lower_bound=1)
_KNN_TEMPERATURE = flags.DEFINE_float(
    "knn_temperature", 0.1, "Temperature of the vote.", lower_bound=1e-6
)
_ONLINE_PROBE_EPOCHS = flags.DEFINE_integer(
    "online_probe_epochs",
    0,
    "Epochs between accuracies of a linear probe trained alongside; 0 is off.",
    lower_bound=0,
)
_ONLINE_PROBE_DATA = flags.DEFINE_string(
    "online_probe_data", None, "Its labelled images; default --data's own labels."
)
_ONLINE_PROBE_SPLIT = flags.DEFINE_string("online_probe_split", None, "Their part.")
_ONLINE_PROBE_STEPS = flags.DEFINE_integer(
    "online_probe_steps", 1, "Steps between two steps of that probe.", lower_bound=1
)
_MAX_BAD_FRACTION = flags.DEFINE_float(
    "max_bad_fraction",
    0.01,
    "Share of unreadable images that stops the run.",
    lower_bound=0.0,
    upper_bound=1.0,
)
_STOP_ON_COLLAPSE = flags.DEFINE_bool(
    "stop_on_collapse", False, "Stop, not just warn, on a collapsed embedding."
)
_ALLOW_CHANGES = flags.DEFINE_list(
    "allow_changes",
    [],
    "Settings that may differ from those that the run in --out was begun with.",
)


def main():
    """Runs the task with the flags' values."""
    run = pretrain.pretrain(
        _DATA.value,
        _OUT.value,
        split=_SPLIT.value or None,
        labels=_LABELS.value,
        channels=_CHANNELS.value,
        bit_depth=int(_BIT_DEPTH.value),
        data_dir=_DATA_DIR.value,
        data_args=command.pairs(_DATA_ARG.value, "data_arg"),
        validation_data=_VALIDATION_DATA.value or None,
        validation_split=_VALIDATION_SPLIT.value or None,
        validation_fraction=_VALIDATION_FRACTION.value,
        method=_METHOD.value,
        hparams=command.pairs(_HPARAM.value, "hparam"),
        encoder=_ENCODER.value,
        encoder_args=command.pairs(_ENCODER_ARG.value, "encoder_arg"),
        recipe=_RECIPE.value,
        image_size=_IMAGE_SIZE.value,
        augment=_AUGMENT.value,
        epochs=_EPOCHS.value,
        batch_size=_BATCH_SIZE.value,
        optimizer=_OPTIMIZER.value,
        optimizer_args=command.pairs(_OPTIMIZER_ARG.value, "optimizer_arg"),
        learning_rate=_LEARNING_RATE.value,
        lr_scaling=_LR_SCALING.value,
        lr_schedule=_LR_SCHEDULE.value,
        lr_start=_LR_START.value,
        lr_final=_LR_FINAL.value,
        lr_drops=command.numbers(_LR_DROPS.value, "lr_drops"),
        lr_drop_factor=_LR_DROP_FACTOR.value,
        weight_decay=_WEIGHT_DECAY.value,
        warmup_epochs=_WARMUP_EPOCHS.value,
        strategy=_STRATEGY.value,
        num_replicas=_NUM_REPLICAS.value,
        tpu=_TPU.value,
        data_service=_DATA_SERVICE.value or None,
        precision=_PRECISION.value,
        jit_compile=_JIT.value,
        steps_per_execution=_STEPS_PER_EXECUTION.value,
        seed=_SEED.value,
        resume=_RESUME.value,
        init_from=_INIT_FROM.value,
        checkpoint_epochs=_CHECKPOINT_EPOCHS.value,
        checkpoint_steps=_CHECKPOINT_STEPS.value,
        checkpoint_minutes=_CHECKPOINT_MINUTES.value,
        keep=_KEEP.value,
        knn_epochs=_KNN_EPOCHS.value,
        knn_k=_KNN_K.value,
        knn_temperature=_KNN_TEMPERATURE.value,
        online_probe_epochs=_ONLINE_PROBE_EPOCHS.value,
        online_probe_data=_ONLINE_PROBE_DATA.value or None,
        online_probe_split=_ONLINE_PROBE_SPLIT.value or None,
        online_probe_steps=_ONLINE_PROBE_STEPS.value,
        max_bad_fraction=_MAX_BAD_FRACTION.value,
        stop_on_collapse=_STOP_ON_COLLAPSE.value,
        allow_changes=tuple(_ALLOW_CHANGES.value),
        on_accept=lambda: command.write_flags(
            files.expanded(_OUT.value), sys.modules[__name__]
        ),
        verbose=1 if sys.stdout.isatty() else 2,
    )
    if strategy.is_chief(_STRATEGY.value):
        print(f"Encoder: {run.path}/encoder.keras   Run: {run.path}/run.json")


def run():
    """Entry point of `tfssl-pretrain`."""
    command.run(main)


if __name__ == "__main__":
    run()
