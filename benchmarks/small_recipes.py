"""CIFAR-10 by the small recipes: kNN and linear probe of each method's features.

Starts `pipelines/recipes/NAME_cifar10_small….flags` of every method, or of those that
are named, with the tokenizer or teacher that it learns from, and evaluates what was
learned, and the random encoder beside it, on the held-out tenth with all labels. Of
BEiT it also fine-tunes with 10 % of the labels, for several choices of the images,
beside the same transformer from scratch. What is finished is not made again, so the
same command goes on where it was stopped. Prints tables, accuracies in %:

    python -m benchmarks.small_recipes --data=cifar10/train --out=runs/small_recipes
    python -m benchmarks.small_recipes --data=cifar10/train --only=npid,dino_resnet18

15 minutes to 2 hours a method on 2 CPU cores, where they were run; `--jobs=6` on a GPU.
`--flag=--epochs=1`, say, goes to every training that has it; a tokenizer's, for one,
has no `--knn_epochs`.
"""

import argparse
import importlib
import json
import os
import pathlib
import sys

from benchmarks import schedule
from tfssl.tasks import arguments

_KIND = "_cifar10_small"
_TOKENIZER = "tokenizer"
_TEACHERS = {"beit": _TOKENIZER, "feature_distillation": "simclr"}
_OTHERS = ("distill", "finetune")  # Recipes of labels, which begin their names.
_TUNED = "finetune_beit"
_BINARIES = ("train_tokenizer", "pretrain", "finetune")
_KNN = "knn_accuracy"
_JUDGED = (
    "--budgets=100%",
    "--draws=1",
    "--probes=knn,linear",
    "--baselines=random_encoder",
    "--scaling=standard",
)


def methods():
    """`{name: recipe}` of all methods that have a small recipe."""
    paths = (schedule.ROOT / "pipelines" / "recipes").glob(f"*{_KIND}*.flags")
    names = {path.stem.replace(_KIND, ""): path.stem for path in sorted(paths)}
    return {
        name: recipe
        for name, recipe in names.items()
        if not name.startswith(_OTHERS) and name != _TOKENIZER
    }


def _has(binary, flag):
    """Whether a training has a flag, such as `--epochs=1` or `--noaugment`."""
    task = importlib.import_module(f"tfssl.tasks.{binary}")
    known = {argument.name for argument in arguments.of(getattr(task, binary))}
    name = flag.lstrip("-").partition("=")[0]
    # Of a dict each flag is one of its pairs.
    return bool({name, f"{name}s", name.removeprefix("no")} & known)


def jobs(chosen, options):
    """`{name: schedule.Job}` of the methods that are named, and what they need."""
    found, recipes = {}, methods()

    def add(name, command, ends_with, *before):
        log = schedule.folder(options.out, f"{name}.log")
        found[name] = schedule.Job(command, log, ends_with.exists, before)

    def train(name, binary, flags, ends_with, *before):
        place = schedule.folder(options.out, name)
        own = [flag for flag in options.flag if _has(binary, flag)]
        given = [f"--data={options.data}", *own, f"--out={place}"]
        add(name, schedule.binary(binary, *flags, *given), place / ends_with, *before)

    def pretrained(name):
        teacher, flags = _TEACHERS.get(name), schedule.recipe(recipes[name])
        if teacher == _TOKENIZER:
            recipe = schedule.recipe(f"{_TOKENIZER}{_KIND}")
            train(_TOKENIZER, "train_tokenizer", recipe, "tokenizer.keras")
        elif teacher:
            pretrained(teacher)
        if teacher:
            flags += [f"--teacher={schedule.folder(options.out, teacher)}"]
        train(name, "pretrain", flags, "encoder.keras", *[teacher] * bool(teacher))
        place = schedule.folder(options.out, name)
        judge = schedule.binary("evaluate", *_JUDGED, f"--run={place}")
        add(f"{name} evaluated", judge, place / "evaluation.json", name)

    for name in chosen:
        pretrained(name)
    for seed in range(options.lists) if "beit" in chosen else ():
        flags = [f"--encoder={schedule.folder(options.out, 'beit')}"]
        flags += [f"--budget_seed={seed}"]
        recipe = schedule.recipe(_TUNED + _KIND)
        name = _tuned(seed)
        train(name, "finetune", recipe + flags, "classification.json", "beit")
    return found


def _tuned(seed):
    return f"{_TUNED} list {seed}"


def _read(options, name, file):
    """A JSON file of a run, or None."""
    path = schedule.folder(options.out, name) / file
    return json.loads(path.read_text()) if path.exists() else None


def _curve(options, name):
    """What the epochs left, a list of dicts."""
    path = schedule.folder(options.out, name) / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def probes(chosen, options):
    """Features by kNN and linear probe, as lines of a Markdown table."""
    lines = ["| method | kNN | linear | random encoder | kNN by epoch | loss |"]
    lines.append("|---|---|---|---|---|---|")
    for name in chosen:
        found = _read(options, name, "evaluation.json")
        if found is None:
            continue
        accuracy = {
            (row["features"], row["probe"]): f"{100 * row['accuracy']:.1f}"
            for row in found["rows"]
        }
        ours = [accuracy["pre-trained", probe] for probe in ("kNN", "linear")]
        random = [accuracy["random encoder", probe] for probe in ("kNN", "linear")]
        curve = _curve(options, name)
        knn = [100 * line[_KNN] for line in curve if _KNN in line]
        ends = [line["loss"] for line in (curve[0], curve[-1])]
        cells = [name, *ours, " / ".join(random)]
        cells.append(", ".join(f"{one:.1f}" for one in knn))
        cells.append(" to ".join(f"{loss:.2f}" for loss in ends))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def tuned(options):
    """BEiT fine-tuned on a tenth of the labels, as lines of a Markdown table."""
    seeds = range(options.lists)
    found = [_read(options, _tuned(seed), "classification.json") for seed in seeds]
    lines = ["| | " + " | ".join(map(str, seeds)) + " | mean ± std |"]
    lines.append("|---|" + "---|" * (len(found) + 1))
    for kind in ("fine-tuned", "from scratch"):
        top1 = [one and 100 * one["results"][kind]["top1"] for one in found]
        lines.append(schedule.row(kind, top1))
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="one folder of images per class")
    parser.add_argument("--out", type=pathlib.Path, default="runs/small_recipes")
    parser.add_argument(
        "--only", help="methods, with commas between: of " + ", ".join(methods())
    )
    parser.add_argument("--lists", type=int, default=3, help="for the fine-tuning")
    schedule.add_arguments(parser)
    options = parser.parse_args()
    options.out = options.out.resolve()
    options.data = os.path.abspath(options.data)
    options.out.mkdir(parents=True, exist_ok=True)
    chosen = options.only.split(",") if options.only else list(methods())
    unknown = [name for name in chosen if name not in methods()]
    if unknown:
        parser.error(
            f"{', '.join(unknown)} received, expected of {', '.join(methods())}"
        )
    for flag in options.flag:
        if not any(_has(binary, flag) for binary in _BINARIES):
            parser.error(f"{flag} received, which none of {', '.join(_BINARIES)} has")
    failed = schedule.run(
        jobs(chosen, options),
        at_once=options.jobs,
        until=options.until,
        told=lambda name: "",
    )
    print(probes(chosen, options))
    if "beit" in chosen:
        print(tuned(options))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
