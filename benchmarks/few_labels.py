"""Few labels of CIFAR-10: from scratch, fine-tuned, distilled, by the small recipes.

Starts the commands of `simclr_cifar10_small.flags`, `finetune_cifar10_small.flags` and
`distill_cifar10_small.flags` for every share of the labels and every choice of the
labelled images, several at a time, each as soon as what it begins with is there. A run
that is finished is not made again, so the same command goes on where it was stopped.
Prints accuracies on the held-out tenth, in %, and their means and standard deviations:

    python -m benchmarks.few_labels --data=cifar10/train --out=runs/few_labels --jobs=4

Half a day on 2 CPU cores. `--flag=--epochs=1`, say, goes to every run.
"""

import argparse
import functools
import json
import os
import pathlib
import sys

from benchmarks import schedule

_SMALL, _BIG = 0.25, 0.5
# Epochs of fine-tuning; SimCLRv2 halves them, too, for ten times the labels.
_EPOCHS = {"1%": 60, "10%": 30}


def _network(width):
    return [f"--encoder_arg=width={width}", "--encoder_arg=stem='cifar'"]


def jobs(out, shares, lists):
    """`{name: (binary, flags, names of the jobs that come before)}`, in order."""
    found = {}
    for width in (_SMALL, _BIG):
        flags = ["--labels=folders", "--knn_epochs=10", *_network(width)]
        found[f"encoder {width}"] = ("pretrain", flags, [])
    for share in shares:
        for seed in lists:
            place = f"{share} list {seed}"
            labels = [f"--budget={share}", f"--budget_seed={seed}"]
            labels.append(f"--epochs={_EPOCHS[share]}")

            def tuned(kind, width, layer, place=place, labels=labels):
                before = f"encoder {width}"
                flags = [
                    f"--encoder={schedule.folder(out, before)}",
                    f"--head_layer={layer}",
                ]
                found[f"{kind} {place}"] = ("finetune", flags + labels, [before])

            def taught(kind, teacher, flags, place=place):
                before = f"{teacher} {place}"
                flags = [f"--teacher={schedule.folder(out, before)}", *flags]
                found[f"{kind} {place}"] = ("distill", flags, [before])

            new = ["--encoder=resnet18", *_network(_SMALL), "--image_size=32"]
            found[f"scratch {place}"] = (
                "finetune", [*new, "--head_layer=0", *labels], [],
            )  # fmt: skip
            tuned("tuned", _SMALL, 1)
            tuned("tuned-0", _SMALL, 0)
            tuned("big", _BIG, 1)
            pretrained = [f"--student={schedule.folder(out, f'encoder {_SMALL}')}"]
            taught("self", "tuned", [*pretrained, "--temperature=0.1"])
            taught("small", "big", ["--student=resnet18", *_network(_SMALL)])
            taught("small-pre", "big", pretrained)
    return found


def _command(name, job, options):
    binary, flags, _ = job
    recipe = {"pretrain": "simclr"}.get(binary, binary) + "_cifar10_small"
    lines = schedule.recipe(recipe)
    if not any(flag.startswith("--encoder_arg") for flag in flags):
        # A trained encoder is given, and the recipe builds one.
        lines = [line for line in lines if not line.startswith("--encoder_arg")]
    place = schedule.folder(options.out, name)
    given = [f"--data={options.data}", *flags, *options.flag, f"--out={place}"]
    return schedule.binary(binary, *lines, *given)


def _accuracy(name, options):
    """Top-1 in % of a finished run with a classifier; None before."""
    told = schedule.folder(options.out, name) / "classification.json"
    if not told.exists():
        return None
    results = json.loads(told.read_text())["results"]
    return 100 * results.get("student", results.get("fine-tuned"))["top1"]


def _finished(name, job, options):
    if job[0] == "pretrain":
        return (schedule.folder(options.out, name) / "encoder.keras").exists()
    return _accuracy(name, options) is not None


def run(found, options):
    """Starts all jobs that are not finished; returns the names of those that failed."""
    kinds = options.only.split(",") if options.only else None
    return schedule.run(
        {
            name: schedule.Job(
                _command(name, job, options),
                schedule.folder(options.out, f"{name}.log"),
                functools.partial(_finished, name, job, options),
                tuple(job[2]),
            )
            for name, job in found.items()
        },
        at_once=options.jobs,
        until=options.until,
        told=lambda name: _accuracy(name, options) or "",
        wanted=kinds and [name for name in found if name.split()[0] in kinds],
    )


def table(found, shares, lists, options):
    """The accuracies as lines of a Markdown table."""
    kinds = dict.fromkeys(n.split()[0] for n, j in found.items() if j[0] != "pretrain")
    lines = ["| | " + " | ".join(map(str, lists)) + " | mean ± std |"]
    for share in shares:
        for kind in kinds:
            seen = [_accuracy(f"{kind} {share} list {s}", options) for s in lists]
            lines.append(schedule.row(f"{share} {kind}", seen))
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="one folder of images per class")
    parser.add_argument("--out", type=pathlib.Path, default="runs/few_labels")
    parser.add_argument("--shares", default="1%,10%", help="of the labels")
    parser.add_argument("--lists", type=int, default=3, help="choices of the images")
    parser.add_argument("--only", help="kinds of runs to start, with commas between")
    schedule.add_arguments(parser)
    options = parser.parse_args()
    options.out = options.out.resolve()
    options.data = os.path.abspath(options.data)
    options.out.mkdir(parents=True, exist_ok=True)
    shares, lists = options.shares.split(","), range(options.lists)
    found = jobs(options.out, shares, lists)
    failed = run(found, options)
    print(table(found, shares, lists, options))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
