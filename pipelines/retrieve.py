"""Instance retrieval by R-MAC: mean average precision as on Oxford5k and Paris6k.

    python -m pipelines.retrieve --run=runs/photos --data=oxford/jpg \
        --ground_truth=oxford/lab --whiten_data=paris/jpg
    tfssl-retrieve --run=vgg.keras --data=paris/jpg --ground_truth=paris/lab \
        --whiten_data=oxford/jpg --out=paris.json

Writes retrieval.json into the run's folder, or to --out.
"""

from absl import flags

from pipelines import command
from tfssl.tasks import retrieve

_RUN = flags.DEFINE_string("run", None, "Folder of a run, or a .keras file.")
_DATA = flags.DEFINE_string("data", None, "Folder of the images.")
_GROUND_TRUTH = flags.DEFINE_string(
    "ground_truth", None, "Folder of <query>_query.txt, _good.txt, _ok.txt, _junk.txt."
)
_WHITEN_DATA = flags.DEFINE_string(
    "whiten_data", None, "Folder of other images to learn the whitening from."
)
_STAGE = flags.DEFINE_string("stage", None, "Feature map; default the last.")
_LONGER_SIDE = flags.DEFINE_integer(
    "longer_side", 1024, "Pixels of each image's longer side.", lower_bound=1
)
_LEVELS = flags.DEFINE_integer("levels", 3, "Scales of regions.", lower_bound=1)
_COMPONENTS = flags.DEFINE_integer(
    "components", None, "Of the whitening; default the map's channels.", lower_bound=1
)
_MAX_BAD_FRACTION = flags.DEFINE_float(
    "max_bad_fraction",
    0.01,
    "Share of unreadable images that stops it.",
    lower_bound=0,
    upper_bound=1,
)
_OUT = flags.DEFINE_string("out", None, "JSON file; default in the run's folder.")


def main():
    """Runs the task with the flags' values."""
    retrieve.retrieve(
        _RUN.value,
        _DATA.value,
        _GROUND_TRUTH.value,
        whiten_data=_WHITEN_DATA.value,
        stage=_STAGE.value,
        longer_side=_LONGER_SIDE.value,
        levels=_LEVELS.value,
        components=_COMPONENTS.value,
        max_bad_fraction=_MAX_BAD_FRACTION.value,
        out=_OUT.value,
    )


def run():
    """Entry point of `tfssl-retrieve`."""
    for name in ("run", "data", "ground_truth"):
        flags.mark_flag_as_required(name)
    command.run(main)


if __name__ == "__main__":
    run()
