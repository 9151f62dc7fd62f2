"""What a run's folder says of its training, for the tasks that come after it."""

from tfssl.tasks import (
    arguments,
    distill,
    finetune,
    pretrain,
    runs,
    settings,
    train_segmenter,
    train_tokenizer,
)

_TASKS = {
    "pretrain": pretrain.pretrain,
    "finetune": finetune.finetune,
    "distill": distill.distill,
    "train_segmenter": train_segmenter.train_segmenter,
    "train_tokenizer": train_tokenizer.train_tokenizer,
}


def settings_of(run):
    """The settings of a run's folder.

    Those that the version of its time did not have are at their defaults.

    Raises:
        ValueError: if the folder is not that of a run.
    """
    record = runs.record_of(run)
    if record is None or "settings" not in record:
        raise ValueError(
            f"{run!r} holds no run.json with settings; pass the --out folder of a "
            "finished run."
        )
    task = _TASKS[record.get("task", "pretrain")]
    defaults = {a.name: None if a.required else a.default for a in arguments.of(task)}
    return settings.recorded(defaults) | record["settings"]


def check_can_be_opened(run, found, names=("data",)):
    """Raises `ValueError` for images of a run that were in memory.

    Args:
        run: its folder.
        found: its settings.
        names: those of them that are to be opened.
    """
    gone = [name for name in names if settings.in_memory(found[name])]
    if gone:
        described = settings.in_memory(found[gone[0]])
        wanted = " and ".join(f"{name}=… (--{name})" for name in gone)
        raise ValueError(
            f"The run {run!r} was trained on images in memory ({described}), which its "
            f"folder does not hold; pass {wanted}."
        )
