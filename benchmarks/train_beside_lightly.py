r"""A whole training of SimCLR from a folder of files, by tfssl and by lightly.

Runs `pipelines.pretrain` by a recipe, then `train_lightly.py` on the same images with
the same network, batch, precision, optimizer, rate and epochs, one after the other on
the whole machine. Prints the images per second of the epochs after the first, and kNN
and linear accuracy on the same held-out tenth by the same probes, in %:

    python -m benchmarks.train_beside_lightly --data=cifar10/train \
        --recipe=simclr_cifar10 --flag=--epochs=6 --flag=--precision=mixed_bfloat16 \
        --peer=.venv-peer/bin/python --peer_flag=--compile

`--flag` goes to our half, `--peer_flag` to the other. What is finished and lies in
`--out` is not made again. Not the same are random numbers, the filter of the resize,
the form of hue, the update of LARS, and where our encoder projects in its first block.
Small images are decoded once by tfssl: `--peer_flag=--arrays` has lightly do so, too.
"""

import json
import statistics
import subprocess

import tfssl
from benchmarks import beside_lightly, schedule
from tfssl import data
from tfssl.evaluation import features
from tfssl.optimizers import schedules
from tfssl.tasks import settings

# What lightly's half has, of the settings that must be given and of others.
_GIVEN = {
    "method": ("simclr",),
    "optimizer": ("sgd", "lars"),
    "recipe": ("simclr", "simclr_cifar10", "byol", "byol_cifar10", "moco_v2"),
    "encoder": tuple(f"resnet{depth}" for depth in (18, 34, 50, 101)),
}
_OTHERS = {
    "precision": ("float32", "mixed_bfloat16"),
    "lr_schedule": ("cosine",),
}
# Those that it is told, or that change nothing on one device.
_ARGUMENTS = {
    "hparam": ("temperature", "projection_hidden", "norm_statistics", "block_size"),
    "encoder_arg": ("width", "stem", "norm_statistics"),
}
_TOLD = ("image_size", "epochs", "batch_size", "learning_rate", "lr_scaling")
_TOLD += ("weight_decay", "warmup_epochs", "seed")


def _of_recipe(options):
    """Flags of our half, those of the benchmark last."""
    flags = [*schedule.recipe(options.recipe), *options.flag]
    flags += [f"--data={options.data}", "--split=", "--labels=folders", "--seed=0"]
    flags += ["--validation_split=", f"--validation_fraction={beside_lightly.FRACTION}"]
    return [*flags, f"--out={options.out / 'tfssl'}"]


def mistake(flags):
    """Why lightly's half could not follow these flags, a sentence, or None."""
    given = [flag.removeprefix("--").partition("=")[::2] for flag in flags]
    last = dict(given)
    for name, valid in (_GIVEN | _OTHERS).items():
        if name in (*_GIVEN, *last) and last.get(name) not in valid:
            return (
                f"--{name}={last.get(name)} received from the recipe or --flag, "
                f"expected one of {', '.join(valid)}, which lightly's half has."
            )
    others = {*settings.RESULT} - {*_GIVEN, *_OTHERS, *_TOLD}
    for name, value in given:
        if name in _ARGUMENTS:
            followed = value.partition("=")[0] in _ARGUMENTS[name]
        else:  # --optimizer_arg is of optimizer_args, --noaugment of augment.
            followed = not others & {name, f"{name}s", name.removeprefix("no")}
        if not followed:
            return (
                f"--{name}{'=' if value else ''}{value} received from the recipe or "
                "--flag, which lightly's half cannot follow; leave it out."
            )
    return None


def peer_flags(record):
    """The flags of lightly's half for the same training.

    Args:
        record: what `run.json` holds.
    """
    given = record["settings"]
    hparams, network = given["hparams"], given["encoder_args"]
    rate = schedules.scaled_rate(
        given["learning_rate"], given["batch_size"], given["lr_scaling"]
    )
    flags = {
        "learning_rate": rate,
        "size": record["made"]["views"][0]["size"],
        "depth": given["encoder"].removeprefix("resnet"),
        "width": network.get("width", 1.0),
        "stem": network.get("stem", "imagenet"),
        "precision": given["precision"].removeprefix("mixed_"),
        "temperature": hparams.get("temperature", 0.1),
    }
    if hparams.get("projection_hidden"):
        flags["projection_hidden"] = hparams["projection_hidden"]
    same = ("recipe", "epochs", "batch_size", "optimizer", "weight_decay")
    flags |= {name: given[name] for name in (*same, "warmup_epochs")}
    return [f"--{name}={value}" for name, value in flags.items()]


def _speeds(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    later = [json.loads(line)["images_per_second"] for line in lines][1:]
    if later:
        print(
            f"tfssl, images/s of the epochs after the first: "
            f"{statistics.median(later):.1f} ({min(later):.1f} to {max(later):.1f})",
            flush=True,
        )


def _features(run, parts):
    encoder = tfssl.load(str(run))
    return {
        name: features.extract(
            encoder.network, data.labeled(part, encoder.preprocessing)
        )
        for name, part in parts.items()
    }


def main():
    parser = beside_lightly.parser(__doc__, "runs/train_beside_lightly")
    parser.add_argument("--recipe", default="simclr_cifar10_small", help="of SimCLR")
    parser.add_argument("--flag", action="append", default=[], help="see above")
    options = parser.parse_args()
    if wrong := mistake(_of_recipe(options)):
        parser.error(wrong)
    parts = beside_lightly.split(options)
    flags, run = _of_recipe(options), options.out / "tfssl"
    if not (run / "encoder.keras").exists():
        subprocess.run(
            schedule.binary("pretrain", *flags), check=True, cwd=schedule.ROOT
        )
    record = json.loads((run / "run.json").read_text())
    theirs = beside_lightly.peer_features(
        parts, "train_lightly.py", peer_flags(record), options
    )
    _speeds(run)
    beside_lightly.judge("tfssl SimCLR", _features(run, parts))
    beside_lightly.judge("lightly SimCLR", theirs)


if __name__ == "__main__":
    main()
