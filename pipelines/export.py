"""Exports a run's encoder as a SavedModel with bytes, uint8 and float signatures.

python -m pipelines.export --run=runs/photos --name=photos
tfssl-export --run=runs/photos --base_dir=savedmodels --check
"""

from absl import flags

from pipelines import command
from tfssl.tasks import export

_RUN = flags.DEFINE_string("run", None, "Folder of a run, or a .keras file.")
_BASE_DIR = flags.DEFINE_string("base_dir", "savedmodels", "Folder of all models.")
_NAME = flags.DEFINE_string("name", None, "Name there; default the run's folder.")
_VERSION = flags.DEFINE_integer(
    "version", None, "Version number; default the next free one.", lower_bound=1
)
_WARMUP = flags.DEFINE_integer(
    "warmup", 0, "Images for warm-up records.", lower_bound=0, upper_bound=997
)
_CHECK = flags.DEFINE_bool(
    "check", False, "Reload the result and compare it with the Python path."
)
_DATA = flags.DEFINE_string(
    "data", None, f"For --warmup and --check; default the run's. {command.DATA_HELP}"
)
_SPLIT = flags.DEFINE_string("split", None, "Part of --data.")


def main():
    """Runs the task with the flags' values."""
    path = export.export(
        _RUN.value,
        _BASE_DIR.value,
        name=_NAME.value,
        version=_VERSION.value,
        warmup=_WARMUP.value,
        check=_CHECK.value,
        data=_DATA.value,
        split=_SPLIT.value,
    )
    print(f"SavedModel: {path}")


def run():
    """Entry point of `tfssl-export`."""
    flags.mark_flag_as_required("run")
    command.run(main)


if __name__ == "__main__":
    run()
