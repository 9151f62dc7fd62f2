r"""DINO of CIFAR-10 by lightly, judged as `benchmarks.small_recipes` judges ours.

Has `dino_lightly.py` train a ResNet-18 at the budget of
`dino_cifar10_small_resnet18.flags`, on the same images, and prints kNN and linear
accuracy on the same held-out tenth by the same probes, in %:

    python -m benchmarks.dino_beside_lightly --data=cifar10/train \
        --peer=.venv-peer/bin/python

`--peer_flag=--epochs=1`, say, goes to the other half. Its features stay in `--out`:
with them there, only the probes are run.
"""

import argparse
import json
import pathlib
import shlex
import subprocess

import numpy as np

from benchmarks import schedule
from tfssl import data
from tfssl.evaluation import features as features_lib
from tfssl.evaluation import knn, linear_probe


def _budget():
    """The flags of the recipe that the other half takes, too."""
    flags = schedule.recipe("dino_cifar10_small_resnet18")
    return [one for one in flags if one.startswith(("--epochs=", "--batch_size="))]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="one folder of images per class")
    parser.add_argument("--out", type=pathlib.Path, default="runs/dino_lightly")
    parser.add_argument("--peer", required=True, help="a Python that has lightly")
    parser.add_argument("--peer_flag", action="append", default=[], help="see above")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    source = data.open_source(options.data, labels="folders")
    train, held_out = data.holdout(source, fraction=0.1, seed=0)
    parts = {"train": train, "held_out": held_out}
    split, found = options.out / "split.json", options.out / "features.npz"
    paths = {
        name: [part.describe(i) for i in range(part.num_images)]
        for name, part in parts.items()
    }
    split.write_text(json.dumps(paths))
    if not found.exists():
        script = str(schedule.ROOT / "benchmarks" / "dino_lightly.py")
        command = [*shlex.split(options.peer), script, f"--split={split}"]
        command += [f"--out={found}", *_budget(), *options.peer_flag]
        subprocess.run(command, check=True)
    with np.load(found) as values:
        bank, queries = (
            features_lib.Features(
                values[name], parts[name].labels, np.arange(parts[name].num_images)
            )
            for name in parts
        )
    fitted = linear_probe.fit(bank, queries, scaling="standard")
    print(
        f"lightly DINO: kNN {100 * knn.accuracy(bank, queries):.1f}, "
        f"linear {100 * fitted.accuracy:.1f}"
    )


if __name__ == "__main__":
    main()
