"""The package as it is installed and imported, and what its README says."""

import ast
import importlib
import os
import pathlib
import re
import subprocess
import sys
import zipfile

import pytest

import tfssl
from tests.fixtures import rooms
from tfssl.tasks import embed, evaluate, pretrain, runs

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_short_names_are_the_tasks():
    assert tfssl.pretrain is pretrain.pretrain
    assert tfssl.evaluate is evaluate.evaluate
    assert tfssl.embed is embed.embed
    assert tfssl.load is runs.load
    for name in tfssl.__all__:
        assert getattr(tfssl, name) is not None


def test_make_help_tells_every_target():
    made = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True)
    told = re.findall(r"^make (\S+) +\S", made.stdout, re.M)
    (phony,) = re.findall(
        r"^\.PHONY: ((?:.*\\\n)*.*)", (ROOT / "Makefile").read_text(), re.M
    )
    targets = phony.replace("\\", " ").split()
    assert sorted(told) == sorted(targets)
    for name in targets:  # The README names the benchmarks without `make`, too.
        assert not name.startswith("bench") or name in README, name


@pytest.mark.parametrize(
    "variables, sentence",
    [
        ({"TF_USE_LEGACY_KERAS": "1"}, "TF_USE_LEGACY_KERAS is set, but tfssl needs"),
    ],
)
def test_an_environment_that_cannot_work_is_said_in_one_line(variables, sentence):
    done = subprocess.run(
        [sys.executable, "-c", "import tfssl"],
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert sentence in done.stderr.strip().splitlines()[-1]


def test_core_requirements_stay_light():
    """A dependency joins by a decision, not by an import."""
    text = (ROOT / "setup.py").read_text()
    block = re.search(r"install_requires=\[(.*?)\]", text, re.DOTALL).group(1)
    names = set(re.findall(r'"([A-Za-z_0-9-]+)', block))
    assert names == {
        "absl-py",
        "importlib_resources",
        "jinja2",
        "keras",
        "numpy",
        "scikit-learn",
        "scipy",  # Comes with scikit-learn.
        "tensorflow",
        "tensorflow-datasets",
        "threadpoolctl",
        "tqdm",
    }


def test_entry_points_and_bazel_name_binaries_that_exist():
    text = (ROOT / "setup.py").read_text()
    entries = re.findall(r"tfssl-([\w-]+) = (pipelines\.\w+):(\w+)", text)
    assert {name for name, _, _ in entries} == {
        "pretrain",
        "data-service",
        "distill",
        "embed",
        "evaluate",
        "export",
        "finetune",
        "make-tfrecords",
        "pair-frames",
        "predict",
        "retrieve",
        "show-views",
        "train-segmenter",
        "train-tokenizer",
    }
    for _, module, function in entries:
        tree = ast.parse((ROOT / (module.replace(".", "/") + ".py")).read_text())
        assert function in {n.name for n in tree.body if hasattr(n, "name")}
    build = (ROOT / "BUILD").read_text()
    for _, module, _ in entries:
        assert f'"{module.rpartition(".")[2]}"' in build


def test_what_is_installed_holds_the_templates_and_the_recipes(tmp_path):
    """Wheel and source archive, made as an installer makes them."""
    told = ["egg_info", "--egg-base", tmp_path, "build", "--build-base", tmp_path]
    told += ["bdist_wheel", "--dist-dir", tmp_path, "--bdist-dir", tmp_path / "wheel"]
    told += ["sdist", "--dist-dir", tmp_path, "--formats", "zip"]
    subprocess.run([sys.executable, "setup.py", "--quiet", *told], cwd=ROOT, check=True)
    wanted = {
        path.relative_to(ROOT).as_posix()
        for pattern in ("tfssl/*/templates/*", "pipelines/recipes/*.flags")
        for path in ROOT.glob(pattern)
    }
    assert "tfssl/evaluation/templates/report.html.jinja" in wanted
    (wheel,), (archive,) = tmp_path.glob("*.whl"), tmp_path.glob("*.zip")
    assert wanted <= set(zipfile.ZipFile(wheel).namelist())
    inside = zipfile.ZipFile(archive).namelist()
    assert wanted <= {name.partition("/")[2] for name in inside}


def test_every_room_has_a_build_target():
    build = (ROOT / "BUILD").read_text()
    for path in (ROOT / "tfssl").glob("[!_]*"):
        # The tasks belong to the target of the package itself.
        found = f'["tfssl/{path.name}' in build
        assert found, f"tfssl/{path.name} is in no target of BUILD."


def test_build_targets_need_what_their_rooms_may_import():
    libraries = {}
    for node in ast.parse((ROOT / "BUILD").read_text()).body:
        call = node.value
        if isinstance(call, ast.Call) and call.func.id == "py_library":
            given = {keyword.arg: keyword.value for keyword in call.keywords}
            deps = getattr(given.get("deps"), "elts", [])
            local = {dep.value for dep in deps if isinstance(dep, ast.Constant)}
            libraries[given["name"].value] = {name.removeprefix(":") for name in local}
    for room, imported in rooms.ROOMS.items():
        if room not in ("tasks", "__init__"):  # Of the package's own target.
            assert libraries[room] == imported, room


def test_the_readme_speaks_of_what_is_there():
    for path in re.findall(r"`((?:pipelines|docs|tfssl)/[\w/.]+)`", README):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"\]\((\w[\w/.]+)\)", README):
        assert (ROOT / path).exists(), path
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            chain = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            if re.fullmatch(r"tfssl(\.\w+)+", chain):
                target = importlib.import_module("tfssl")
                for part in chain.split(".")[1:]:
                    target = getattr(target, part)
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"(?:`|^)make ([\w-]+)", README, re.M)) <= targets
