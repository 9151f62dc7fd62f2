"""What `dino_beside_lightly` and `train_beside_lightly` share."""

import argparse
import json
import os
import pathlib
import shlex
import subprocess

import numpy as np

from benchmarks import schedule
from tfssl import data
from tfssl.evaluation import features as features_lib
from tfssl.evaluation import knn, linear_probe

FRACTION = 0.1  # Of the images that are held out.


def parser(description, out):
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add("--data", required=True, help="one folder of images per class")
    add("--out", type=pathlib.Path, default=pathlib.Path(out))
    add("--peer", required=True, help="a Python that has lightly")
    add("--peer_flag", action="append", default=[], help="see above")
    return made


def split(options):
    """`{"train": source, "held_out": source}`; their paths go to `split.json`.

    Makes the paths of the options absolute: the halves need not run here.
    """
    options.data, options.out = os.path.abspath(options.data), options.out.resolve()
    # Else TensorFlow takes the whole memory of a GPU from the halves.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    options.out.mkdir(parents=True, exist_ok=True)
    source = data.open_source(options.data, labels="folders")
    parts = dict(
        zip(("train", "held_out"), data.holdout(source, fraction=FRACTION, seed=0))
    )
    paths = {
        name: [part.describe(i) for i in range(part.num_images)]
        for name, part in parts.items()
    }
    (options.out / "split.json").write_text(json.dumps(paths))
    return parts


def peer_features(parts, script, flags, options):
    """The features of the parts by a script of the peer, which runs if it has not."""
    found = options.out / "features.npz"
    if not found.exists():
        command = [*shlex.split(options.peer), schedule.ROOT / "benchmarks" / script]
        command += [f"--split={options.out / 'split.json'}", f"--out={found}"]
        subprocess.run([*command, *flags, *options.peer_flag], check=True)
    with np.load(found) as values:
        return {
            name: features_lib.Features(
                values[name], part.labels, np.arange(part.num_images)
            )
            for name, part in parts.items()
        }


def judge(name, features):
    """Prints the accuracy of features, in %."""
    bank, queries = features["train"], features["held_out"]
    fitted = linear_probe.fit(bank, queries, scaling="standard")
    print(
        f"{name}: kNN {100 * knn.accuracy(bank, queries):.1f}, "
        f"linear {100 * fitted.accuracy:.1f}",
        flush=True,
    )
