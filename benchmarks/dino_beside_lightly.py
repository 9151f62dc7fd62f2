r"""DINO of CIFAR-10 by lightly, judged as `benchmarks.small_recipes` judges ours.

Has `dino_lightly.py` train a ResNet-18 at the budget of
`dino_cifar10_small_resnet18.flags`, on the same images, and prints kNN and linear
accuracy on the same held-out tenth by the same probes, in %:

    python -m benchmarks.dino_beside_lightly --data=cifar10/train \
        --peer=.venv-peer/bin/python

`--peer_flag=--epochs=1`, say, goes to the other half. Its features stay in `--out`:
with them there, only the probes are run.
"""

from benchmarks import beside_lightly, schedule


def _budget():
    """The flags of the recipe that the other half takes, too."""
    flags = schedule.recipe("dino_cifar10_small_resnet18")
    return [one for one in flags if one.startswith(("--epochs=", "--batch_size="))]


def main():
    options = beside_lightly.parser(__doc__, "runs/dino_lightly").parse_args()
    parts = beside_lightly.split(options)
    found = beside_lightly.peer_features(parts, "dino_lightly.py", _budget(), options)
    beside_lightly.judge("lightly DINO", found)


if __name__ == "__main__":
    main()
