"""Holds the house rules that a reviewer would otherwise have to remember."""

import ast
import pathlib
import re
import sys

import pytest

from tests.fixtures import rooms

_ROOT = pathlib.Path(__file__).parents[1]

_TESTED_ROOMS = ("data", "losses", "methods", "models", "optimizers")
_TESTED_ELSEWHERE = {
    "methods/base.py": "methods/contract_test.py",
    "methods/encoder_checks.py": "methods/contract_test.py",
    "methods/loop.py": "methods/contract_test.py",
    "methods/one_view_bank.py": "methods/npid_test.py",
}
_NOT_TESTS = {
    "__init__.py",
    "case_table.py",
    "cases.py",
    "conftest.py",
    "plain_operations.py",
    "plain_views.py",
    "processes.py",
    "run_pytest.py",
}

_MOST_LINES, _MOST_OF_A_FUNCTION = 400, 80

_STANDARD = set(sys.stdlib_module_names)


def _files(*folders):
    return sorted(p for f in folders for p in (_ROOT / f).rglob("*.py"))


_LIBRARY = _files("tfssl")
_ALL = _files("tfssl", "pipelines", "benchmarks", "tests")


def _name(path):
    return path.relative_to(_ROOT).as_posix()


def _tree(path):
    return ast.parse(path.read_text(), filename=str(path))


def _imports(tree):
    """`(line, dotted name)` of every import; `from a import b` gives `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"


def _room(path):
    return path.relative_to(_ROOT / "tfssl").parts[0].removesuffix(".py")


def _wrong_imports(tree, room):
    """Imports that the two tables do not allow in `room`."""
    wrong = []
    for line, name in _imports(tree):
        parts = name.split(".")
        if name.startswith("."):
            wrong.append(f"line {line}: relative import {name}")
        elif parts[0] == "pipelines":
            wrong.append(f"line {line}: {name}; nothing imports pipelines")
        elif parts[0] == "tfssl":
            if parts[1] != room and parts[1] not in rooms.ROOMS[room]:
                wrong.append(f"line {line}: {room} imports tfssl.{parts[1]}")
        elif parts[0] not in _STANDARD | rooms.OPTIONAL and room in rooms.PACKAGES:
            if parts[0] not in rooms.PACKAGES[room]:
                wrong.append(f"line {line}: {room} imports {parts[0]}")
    return wrong


def _wrong_parts(tree, room, part):
    """Imports inside of a room that `rooms.INSIDE` or `rooms.DOORS` do not allow."""
    wrong = []
    for line, name in _imports(tree):
        parts = name.split(".")
        if parts[:2] != ["tfssl", room] or len(parts) < 3 or parts[2] == part:
            continue
        if room == "tasks":
            fine = parts[2] not in rooms.DOORS or parts[2] in rooms.DOORS_USED.get(
                part, ()
            )
        else:
            fine = parts[2] in rooms.INSIDE[room][part]
        if not fine:
            wrong.append(f"line {line}: {room}/{part} imports {parts[2]}")
    return wrong


def _long_functions(tree):
    """Functions of `_MOST_OF_A_FUNCTION` lines or more, docstrings left out."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            if lines >= _MOST_OF_A_FUNCTION:
                found.append(f"line {node.lineno}: {node.name} has {lines} lines")
    return found


def _library_offences(tree):
    """What library code may not do: assert, and import inside functions."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            found.append(f"line {node.lineno}: assert; raise ValueError")
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for line, name in _imports(node):
                if name.split(".")[0] not in rooms.OPTIONAL:
                    found.append(f"line {line}: {name} imported in {node.name}")
    return found


def _own_names(trees):
    """Every name that these files give to something."""
    names = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
    return names


def _reach_ins(tree, own):
    """Private attributes that are not ours, and modules that are not public."""
    private = re.compile("_[a-z]")
    found = [
        f"line {node.lineno}: {ast.unparse(node)}; put it into tfssl/internals.py"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and private.match(node.attr)
        and node.attr not in own
        and ast.unparse(node) != "os._exit"  # Public, and documented.
    ]
    hidden = ("keras.src", "tensorflow.python", "tensorflow.core")
    return found + [
        f"line {line}: {name} is not public"
        for line, name in _imports(tree)
        if name.startswith(hidden)
    ]


def _wrong_names(tree, flags_allowed):
    """Uses of tf.keras, and of absl.flags where it has no place."""
    found = []
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and node.attr == "keras"
            and isinstance(node.value, ast.Name)
            and node.value.id in ("tf", "tensorflow")
        ):
            found.append(f"line {node.lineno}: tf.keras; import keras")
    for line, name in _imports(tree):
        if name.startswith(("tensorflow.keras", "tensorflow.python.keras")):
            found.append(f"line {line}: {name}; import keras")
        if name.startswith(("absl.flags", "absl.app")) and not flags_allowed:
            found.append(f"line {line}: {name}; flags live in pipelines")
    return found


@pytest.mark.parametrize("path", _LIBRARY, ids=_name)
def test_imports_point_one_way(path):
    room = _room(path)
    assert room in rooms.ROOMS, f"tfssl/{room} is not in the table of rooms."
    assert not _wrong_imports(_tree(path), room)


def test_parts_of_a_room_point_one_way():
    found = {}
    for room in (*rooms.INSIDE, "tasks"):
        for path in _files(f"tfssl/{room}"):
            part = path.relative_to(_ROOT / "tfssl" / room).parts[0].removesuffix(".py")
            if part == "__init__":
                continue
            assert room == "tasks" or part in rooms.INSIDE[room], _name(path)
            if wrong := _wrong_parts(_tree(path), room, part):
                found[_name(path)] = wrong
    assert not found


def test_files_and_functions_are_short():
    long = {
        _name(path): lines
        for path in _files("tfssl", "pipelines", "tests")
        if (lines := len(path.read_text().splitlines())) > _MOST_LINES
    }
    assert not long
    functions = {
        _name(path): found
        for path in _files("tfssl", "pipelines")
        if (found := _long_functions(_tree(path)))
    }
    assert not functions


@pytest.mark.parametrize("path", _LIBRARY, ids=_name)
def test_library_raises_and_imports_at_the_top(path):
    assert not _library_offences(_tree(path))


def test_private_parts_of_others_are_met_in_one_file():
    own = _own_names(_tree(path) for path in _LIBRARY)
    found = {
        _name(path): offences
        for path in _LIBRARY
        if _room(path) != "internals" and (offences := _reach_ins(_tree(path), own))
    }
    assert not found


@pytest.mark.parametrize("path", _ALL, ids=_name)
def test_no_tf_keras_and_no_stray_flags(path):
    in_pipelines = path.is_relative_to(_ROOT / "pipelines")
    in_their_tests = path.is_relative_to(_ROOT / "tests" / "pipelines")
    assert not _wrong_names(_tree(path), in_pipelines or in_their_tests)


@pytest.mark.parametrize("path", _files("pipelines"), ids=_name)
def test_pipelines_leave_the_work_to_tasks(path):
    rooms = {
        name.split(".")[1]
        for _, name in _imports(_tree(path))
        if name.startswith("tfssl.")
    }
    # Beside the tasks: the literals that list the valid values of flags, and what
    # holds for a process, set before TensorFlow runs.
    values = {"data", "files", "methods", "models", "optimizers", "training", "version"}
    assert rooms <= {"tasks", "processor"} | values


@pytest.mark.parametrize("path", _ALL, ids=_name)
def test_file_names_say_what_is_inside(path):
    vague = {"utils", "util", "misc", "helpers", "helper", "common"}
    assert not vague & set(path.stem.removesuffix("_test").split("_"))


_TESTED = [p for room in _TESTED_ROOMS for p in _files(f"tfssl/{room}")]


@pytest.mark.parametrize(
    "path", [p for p in _TESTED if p.name != "__init__.py"], ids=_name
)
def test_module_has_a_test(path):
    name = path.relative_to(_ROOT / "tfssl").as_posix()
    test = _TESTED_ELSEWHERE.get(name, name.replace(".py", "_test.py"))
    assert (_ROOT / "tests" / test).exists()


@pytest.mark.parametrize("path", _files("tests"), ids=_name)
def test_file_under_tests_is_collected(path):
    fixture = "fixtures" in path.relative_to(_ROOT / "tests").parts
    assert fixture or path.name in _NOT_TESTS or path.name.endswith("_test.py")


@pytest.mark.parametrize(
    "room, source",
    [
        ("losses", "from tfssl import models"),
        ("models", "from tfssl.methods import simclr"),
        ("methods", "import tfssl.tasks.pretrain"),
        ("evaluation", "def f():\n    from tfssl import methods"),
        ("data", "import keras"),
        ("replicas", "import numpy as np"),
        ("models", "from pipelines import pretrain"),
        ("models", "from . import norms"),
    ],
)
def test_the_import_check_can_fail(room, source):
    assert len(_wrong_imports(ast.parse(source), room)) == 1


@pytest.mark.parametrize(
    "room, part, source, wrong",
    [
        ("data", "sources", "from tfssl.data.views import color", 1),
        ("data", "sources", "from tfssl.data import pipeline", 1),
        ("data", "views", "from tfssl.data.pipeline import multiview", 1),
        ("data", "pipeline", "from tfssl.data import sources, views", 1),
        ("training", "workers", "import tfssl.training.saving", 1),
        ("training", "saving", "from tfssl.training import workers", 0),
        ("tasks", "trainer", "from tfssl.tasks import pretrain, runs", 1),
        ("tasks", "recorded", "from tfssl.tasks import pretrain", 0),
        ("tasks", "embed", "from tfssl.tasks import evaluate", 1),
    ],
)
def test_the_check_of_parts_can_fail(room, part, source, wrong):
    assert len(_wrong_parts(ast.parse(source), room, part)) == wrong


def test_the_other_checks_can_fail():
    source = "def f():\n    'Doc.'\n" + "    f()\n" * _MOST_OF_A_FUNCTION
    assert len(_long_functions(ast.parse(source))) == 1
    assert not _long_functions(ast.parse(source.replace("    f()\n", "", 1)))
    source = "def f():\n    import json\n    assert json"
    assert len(_library_offences(ast.parse(source))) == 2
    source = (
        "from keras.src import ops\nlayer._flatten_layers()\nself._ours = self._ours"
    )
    assert len(_reach_ins(ast.parse(source), _own_names([ast.parse(source)]))) == 2
    source = "import tensorflow.keras\ntf.keras.Model()\nfrom absl import flags"
    assert len(_wrong_names(ast.parse(source), False)) == 3
    assert len(_wrong_names(ast.parse(source), True)) == 2
