"""Evaluates a run: kNN and linear probes at several label budgets, with baselines.

    python -m pipelines.evaluate --run=runs/digits
    tfssl-evaluate --run=runs/photos --data=labelled/ --labels=folders
    tfssl-evaluate --run=runs/photos --probe=augmented --budgets=100%
    tfssl-evaluate --run=runs/photos --stages=all --probe=mlp --budgets=100%

Writes evaluation.json and report.html into the run's folder.
"""

from absl import flags

from pipelines import command
from tfssl.tasks import evaluate

_RUN = flags.DEFINE_string("run", None, "Folder of a pre-training run.")
_DATA = flags.DEFINE_string("data", None, "Labelled images; default the run's.")
_SPLIT = flags.DEFINE_string("split", None, "Their part.")
_VALIDATION_DATA = flags.DEFINE_string(
    "validation_data", None, "Labelled test images; default the run's."
)
_VALIDATION_SPLIT = flags.DEFINE_string("validation_split", None, "Their part.")
_LABELS = flags.DEFINE_enum(
    "labels", None, ["auto", "none", "folders"], "Where labels come from."
)
_BUDGETS = flags.DEFINE_list(
    "budgets",
    None,
    "Labels: numbers per class, or shares; default 1,5,10%,100%, of which those that a "
    "class has too few images for are left out.",
)
_DRAWS = flags.DEFINE_integer(
    "draws", 10, "Choices of the labelled images below 100 %.", lower_bound=1
)
_KNN_K = flags.DEFINE_integer("knn_k", 20, "Neighbours.", lower_bound=1)
_KNN_TEMPERATURE = flags.DEFINE_float(
    "knn_temperature", 0.1, "Temperature of the vote.", lower_bound=1e-6
)
_SCALING = flags.DEFINE_enum(
    "scaling", "unit", ["unit", "standard"], "Of the L-BFGS probe's features."
)
_PROBE = flags.DEFINE_enum(
    "probe",
    "lbfgs",
    evaluate.PROBES,
    "Linear probe on features computed once; or also the papers' on augmented images, "
    "or an MLP.",
)
_PROBE_EPOCHS = flags.DEFINE_integer(
    "probe_epochs", 90, "Passes of the augmented probe.", lower_bound=1
)
_PROBE_RATES = flags.DEFINE_list(
    "probe_rates",
    None,
    "Its base learning rates (x batch/256), all tried in one pass; default 12 values.",
)
_PROBE_OPTIMIZER = flags.DEFINE_enum(
    "probe_optimizer", "sgd", evaluate.PROBE_OPTIMIZERS, "Its optimizer."
)
_PROBE_BATCH_SIZE = flags.DEFINE_integer(
    "probe_batch_size",
    256,
    "Images per step of the probes trained by steps.",
    lower_bound=1,
)
_PROBE_OPTION = flags.DEFINE_multi_string(
    "probe_option",
    None,
    "Further argument of augmented_probe.train or else of dense_probe.fit, name=value; "
    "repeatable.",
)
_STAGES = flags.DEFINE_list(
    "stages", [], "Feature maps of the encoder to probe as well: names, or all."
)
_STAGE_FEATURES = flags.DEFINE_integer(
    "stage_features",
    10_000,
    "Numbers that a stage's map is averaged to at most.",
    lower_bound=1,
)
_CLUSTERS = flags.DEFINE_integer(
    "clusters",
    0,
    "k-means clusters of the validation images, for purity and NMI; 0 for none.",
    lower_bound=0,
)
_BASELINES = flags.DEFINE_list(
    "baselines", list(evaluate.BASELINES), "What to compare with; empty for nothing."
)
_SUPERVISED_EPOCHS = flags.DEFINE_integer(
    "supervised_epochs", 30, "Passes of the supervised baseline.", lower_bound=1
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 256, "Images per forward pass.", lower_bound=1
)
_SEED = flags.DEFINE_integer("seed", 0, "Of draws and baselines.")


def main():
    """Runs the task with the flags' values."""
    evaluate.evaluate(
        _RUN.value,
        data=_DATA.value,
        split=_SPLIT.value,
        validation_data=_VALIDATION_DATA.value,
        validation_split=_VALIDATION_SPLIT.value,
        labels=_LABELS.value,
        budgets=_BUDGETS.value,
        draws=_DRAWS.value,
        knn_k=_KNN_K.value,
        knn_temperature=_KNN_TEMPERATURE.value,
        scaling=_SCALING.value,
        probe=_PROBE.value,
        probe_epochs=_PROBE_EPOCHS.value,
        probe_rates=command.numbers(_PROBE_RATES.value, "probe_rates"),
        probe_optimizer=_PROBE_OPTIMIZER.value,
        probe_batch_size=_PROBE_BATCH_SIZE.value,
        probe_options=command.pairs(_PROBE_OPTION.value, "probe_option"),
        stages=tuple(_STAGES.value),
        stage_features=_STAGE_FEATURES.value,
        clusters=_CLUSTERS.value,
        baselines=tuple(_BASELINES.value),
        supervised_epochs=_SUPERVISED_EPOCHS.value,
        batch_size=_BATCH_SIZE.value,
        seed=_SEED.value,
    )
    print(f"Report: {_RUN.value}/report.html")


def run():
    """Entry point of `tfssl-evaluate`."""
    flags.mark_flag_as_required("run")
    command.run(main)


if __name__ == "__main__":
    run()
