"""The commands that the benchmark of small recipes starts."""

import argparse
import pathlib
import re
import shlex

import pytest
from absl import flags

from benchmarks import small_recipes
from pipelines import task_flags
from tfssl.tasks import finetune, pretrain, train_tokenizer

_ROOT = pathlib.Path(__file__).parents[2]
_TASKS = {
    "finetune": finetune.finetune,
    "pretrain": pretrain.pretrain,
    "train_tokenizer": train_tokenizer.train_tokenizer,
}


def documented():
    """What of `--flag` and `--only` the pages give to it."""
    for page in sorted(_ROOT.glob("docs/**/*.md")):
        text = page.read_text().replace("\\\n", " ")
        for found in re.findall('make bench-small-recipes ARGS="(.*?)"', text):
            words = shlex.split(found)
            only = [w[7:] for w in words if w.startswith("--only=")]
            given = [w[7:] for w in words if w.startswith("--flag=")]
            yield pytest.param(only, given, id=f"{page.stem} {found}")


@pytest.mark.parametrize("only, given", list(documented()))
def test_documented_commands_have_flags_that_there_are(only, given, tmp_path):
    chosen = list(small_recipes.methods())
    if only and only != ["NAMES"]:
        chosen = only[0].split(",")
    options = argparse.Namespace(data="there", out=tmp_path, flag=given, lists=1)
    parsed = 0
    for job in small_recipes.jobs(chosen, options).values():
        binary = job.command[2].removeprefix("pipelines.")
        if binary not in _TASKS:
            continue
        values = flags.FlagValues()
        skip = ("callbacks", "on_accept", "preprocessing", "verbose")
        read = task_flags.define(
            _TASKS[binary], "task", skip=skip, needed=(), flag_values=values
        )
        values(["task", *job.command[3:]])
        assert read()["data"] == "there"
        parsed += 1
    assert parsed >= len(chosen)


def test_a_flag_goes_to_the_trainings_that_have_it(tmp_path):
    given = ["--validation_epochs=6", "--knn_epochs=5", "--noaugment"]
    options = argparse.Namespace(data="there", out=tmp_path, flag=given, lists=1)
    jobs = small_recipes.jobs(["beit"], options)
    has = {name: [f for f in given if f in job.command] for name, job in jobs.items()}
    assert has["tokenizer"] == ["--noaugment"]
    assert has["beit"] == ["--knn_epochs=5", "--noaugment"]
    assert has["finetune_beit list 0"] == ["--validation_epochs=6", "--noaugment"]


def test_a_flag_that_no_training_has_is_refused(monkeypatch, tmp_path, capsys):
    command = ["small_recipes", "--data=there", f"--out={tmp_path}", "--flag=--knn=5"]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit):
        small_recipes.main()
    assert "--knn=5 received, which none of train_tokenizer" in capsys.readouterr().err
