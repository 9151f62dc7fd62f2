"""The pages: those that are made, as they are made now; commands and code, run."""

import fnmatch
import functools
import importlib.util
import os
import pathlib
import re
import runpy
import shlex
import sys

import numpy as np
import pytest
import tensorflow as tf
from absl import flags

import tfssl
from pipelines import task_flags
from tests import processes
from tests.fixtures import smoke

_ROOT = pathlib.Path(processes.ROOT)
_DOCS = _ROOT / "docs"
_PAGES = sorted([_ROOT / "README.md", *_DOCS.rglob("*.md")])


def test_the_page_of_names_is_that_of_the_docstrings():
    spec = importlib.util.spec_from_file_location("api", _DOCS / "api.py")
    api = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(api)
    made = api.text(tfssl)
    assert (_DOCS / "api.md").read_text() == made, "docs/api.md is stale: make docs"
    for name in ("tfssl.pretrain", "tfssl.data.multiview", "tfssl.methods.BYOL"):
        assert f"# {name}\n```python\n{name.rpartition('.')[2]}(" in made


def blocks(page, language):
    """The blocks of a page in this language."""
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", page.read_text(), re.M | re.S)


def commands(page):
    """`(name of the binary, its flags)` of every command of ours on a page."""
    found = []
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip().startswith("tfssl-"):
                words = shlex.split(line, comments=True)
                name = words[0].removeprefix("tfssl-").replace("-", "_")
                # Signs that stand for more of the same, or for the shell.
                found.append((name, [w for w in words[1:] if w not in ("…", "&")]))
    return found


@pytest.fixture(scope="module")
def parse():
    """Function `(name of a binary, flags)` that reads them as it would."""
    known = {}

    def flags_of(name):
        if name not in known:
            values, real = flags.FlagValues(), task_flags.define
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(
                    task_flags,
                    "define",
                    lambda *given, **named: real(*given, **named, flag_values=values),
                )
                into = functools.partial(flags.DEFINE_string, flag_values=values)
                patch.setattr(flags, "DEFINE_string", into)
                runpy.run_module(f"pipelines.{name}")
            known[name] = values
        return known[name]

    def parsed(name, given):
        values = flags_of(name)
        values.unparse_flags()
        for flag in values:
            values[flag].unparse()
        rest = values([name, *given])
        assert rest == [name], rest[1:]

    return parsed


@pytest.mark.parametrize(
    "page", [pytest.param(p, id=p.name) for p in _PAGES if commands(p)]
)
def test_commands_have_flags_that_there_are(page, parse):
    for name, given in commands(page):
        # A page may speak of the same recipe of every method.
        given = [word.replace("METHOD", "simclr") for word in given]
        given = [w.replace("=pipelines/", f"={_ROOT}/pipelines/") for w in given]
        parse(name, given)


_KINDS = {"tokenizer": "train_tokenizer", "segmenter": "train_segmenter"}


def test_every_recipe_has_a_row_of_what_shrinks_it(parse):
    """With flags that there are; `binaries_test.py` runs them."""
    recipes = {path.stem for path in pathlib.Path(smoke.RECIPES).glob("*.flags")}
    shrinking = {name for name in recipes if name.startswith("smoke")}
    for name in sorted(recipes - shrinking):
        given = smoke.flags_after(name, TOKENIZER="there", CLASSIFIER="there")
        first = name.partition("_")[0]
        binary = first if first in ("finetune", "distill") else _KINDS.get(first)
        parse(
            binary or "pretrain", [f"--flagfile={smoke.RECIPES}/{name}.flags", *given]
        )
    patterns, flagfiles, _ = zip(*smoke.rows())
    assert set(flagfiles) == shrinking
    for pattern in sum(patterns, []):
        assert fnmatch.filter(recipes - shrinking, pattern), pattern


# What makes each command of the page about one's own images small.
_SMALL = {
    "pretrain": [
        "--encoder=resnet18", "--encoder_arg=width=0.0625",
        "--encoder_arg=stem='cifar'", "--image_size=16",
        "--epochs=1", "--batch_size=8", "--warmup_epochs=0",
    ],
    "finetune": ["--epochs=2", "--batch_size=4"],
    "distill": [
        "--encoder_arg=width=0.0625", "--encoder_arg=stem='cifar'", "--image_size=16",
        "--epochs=1", "--batch_size=8",
    ],
}  # fmt: skip


@pytest.mark.slow
def test_your_own_images_from_a_folder_to_a_server(tmp_path, monkeypatch, capsys):
    """Its commands one after the other, on pictures that are dark or light."""
    rng = np.random.default_rng(0)
    for part, count in (("photos", 16), ("labelled", 8), ("test", 8)):
        for i in range(count):
            name = ("dark", "light")[i % 2]
            folder = tmp_path / part / ("" if part == "photos" else name)
            folder.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 90, (24, 20, 3)) + 160 * (i % 2)
            image = tf.io.encode_jpeg(pixels.astype(np.uint8))
            (folder / f"{i}.jpg").write_bytes(image.numpy())
    page = _DOCS / "your_own_images.md"
    done = []
    for name, given in commands(page):
        given = [re.sub(r"=(?=\w+[/.]|\w*models$)", f"={tmp_path}/", w) for w in given]
        command = [sys.executable, "-m", f"pipelines.{name}", *given]
        end = processes.Worker([*command, *_SMALL.get(name, [])], os.environ).wait()
        assert end.code == 0, (name, end.stderr[-2000:])
        done.append(name)
    assert done == [
        "show_views",
        "pretrain",
        "finetune",
        "distill",
        "export",
        "predict",
    ]
    for made in (
        "views.png", "runs/photos/encoder.keras", "runs/classes/classification.html",
        "runs/classes/baseline/encoder.keras", "runs/small/encoder.keras",
        "savedmodels/small/1/assets/classes.txt", "savedmodels/small/README.md",
    ):  # fmt: skip
        assert (tmp_path / made).exists(), made
    rows = (tmp_path / "photos.csv").read_text().splitlines()
    assert len(rows) == 1 + 16 * 2 and {row.split(",")[2] for row in rows[1:]} == {
        "dark",
        "light",
    }
    monkeypatch.chdir(tmp_path)
    (served,) = blocks(page, "python")
    exec(compile(served, str(page), "exec"), {})
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and all(row.split()[0] in ("dark", "light") for row in said)
