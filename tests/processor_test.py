import logging
import os
import pathlib
import subprocess
import sys

import pytest
import tensorflow as tf

from tfssl import processor
from tfssl.tasks import runs

ROOT = pathlib.Path(__file__).parents[1]


def child(code, **variables):
    """The standard output of Python code in a fresh process."""
    env = {k: v for k, v in os.environ.items() if k != "TF_ENABLE_ONEDNN_OPTS"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=env | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


# Every fresh process loads TensorFlow, which takes seconds: each tells all.
TOLD = """; import os; import tensorflow as tf
from tfssl import processor
processor.one_thread_an_operation()
print(os.environ['TF_ENABLE_ONEDNN_OPTS'], processor.onednn())
print(tf.config.threading.get_intra_op_parallelism_threads())"""


@pytest.mark.parametrize(
    "first",
    ["tfssl", "pipelines.command", pytest.param("benchmarks", marks=pytest.mark.slow)],
)
def test_onednn_is_on_and_an_operation_takes_one_thread(first):
    """Wherever TensorFlow is loaded by us."""
    assert child(f"import {first}{TOLD}", TF_NUM_INTRAOP_THREADS="") == [
        "1",
        "True",
        "1",
    ]


def test_what_the_user_set_stays():
    users = {"TF_ENABLE_ONEDNN_OPTS": "0", "TF_NUM_INTRAOP_THREADS": "2"}
    assert child(f"import tfssl{TOLD}", **users) == ["0", "False", "0"]


def test_the_threads_of_a_process_that_computes_stay():
    before = tf.config.threading.get_intra_op_parallelism_threads()
    tf.constant(1.0)
    processor.one_thread_an_operation()
    assert tf.config.threading.get_intra_op_parallelism_threads() == before


def test_the_tests_run_with_it():
    assert processor.onednn() or os.environ["TF_ENABLE_ONEDNN_OPTS"] != "1"


@pytest.mark.parametrize(
    "asked, on, said", [(None, False, 1), (None, True, 0), ("0", False, 0)]
)
def test_a_slow_tensorflow_is_said_if_nobody_asked_for_it(
    asked, on, said, monkeypatch, caplog
):
    monkeypatch.setattr(processor, "onednn", lambda: on)
    with caplog.at_level(logging.WARNING):
        processor.warn_if_slow(asked)
    assert len(caplog.records) == said
    if said:
        assert "set TF_ENABLE_ONEDNN_OPTS=1" in caplog.text


AMD = """processor\t: 0
model name\t: AMD EPYC 7571
flags\t\t: fpu sse avx avx2 sha_ni

processor\t: 1
model name\t: another
flags\t\t: fpu
"""
SAPPHIRE = "flags : avx2 avx512f avx512_vnni avx512_bf16 amx_tile amx_int8\n"


@pytest.mark.parametrize(
    "text, found",
    [
        (AMD, "AMD EPYC 7571 (AVX2)"),
        ("model name : Xeon\n" + SAPPHIRE, "Xeon (AVX2, AVX-512, AVX-512 VNNI, "
         "AVX-512 BF16, AMX)"),
        ("model name : old\nflags : fpu\n", "old"),
        ("Features : fp asimd\nmodel name : Neoverse\n", "Neoverse (NEON)"),
    ],
)  # fmt: skip
def test_processors_are_named_with_their_features(text, found):
    assert processor.cpu(text) == found


def test_a_run_names_its_machine(monkeypatch):
    record = runs.versions()
    assert record["onednn"] == ("on" if processor.onednn() else "off")
    assert record["processor"] and "accelerators" not in record
    assert "xla" not in record
    gpu = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")
    monkeypatch.setattr(
        tf.config, "list_physical_devices", lambda kind: [gpu] if kind == "GPU" else []
    )
    monkeypatch.setattr(
        tf.config.experimental, "get_device_details", lambda _: {"device_name": "H200"}
    )
    assert runs.versions()["accelerators"] == "H200"


def test_free_memory_is_that_of_the_machine_or_its_container(tmp_path, monkeypatch):
    def write(name, text):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    meminfo = write("meminfo", "MemTotal: 900 kB\nMemAvailable:   500 kB\n")
    paths = [str(tmp_path / name) for name in ("max", "current", "stat")]
    monkeypatch.setattr(processor, "_MEMINFO", meminfo)
    monkeypatch.setattr(processor, "_CONTAINERS", ((*paths, "inactive_file"),))
    assert processor.free_memory() == 500 * 1024
    write("current", "3000\n")
    write("stat", "anon 900\ninactive_file 2000\n")
    write("max", "max\n")
    assert processor.free_memory() == 500 * 1024
    write("max", "10000\n")
    assert processor.free_memory() == 9000
    monkeypatch.setattr(processor, "_MEMINFO", str(tmp_path / "none"))
    write("max", "max\n")
    assert processor.free_memory() > 1 << 20
