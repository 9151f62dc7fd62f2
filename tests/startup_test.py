import gc
import os
import pathlib
import subprocess
import sys

import pytest

from tfssl import startup

ROOT = pathlib.Path(__file__).parents[1]
USES_TENSORFLOW = "import tensorflow as tf; tf.add(1, 1)"


def started(*command, **variables):
    """How Python ends with this command and an environment that nobody has set up."""
    ours = ("TF_", "CUDA_", "KERAS_")
    env = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=env | {"PYTHONPATH": str(ROOT)} | variables,
        capture_output=True,
        text=True,
        check=True,
    )


only_cpus = pytest.mark.skipif(
    not startup.only_cpus(), reason="what a GPU's driver says may be of use"
)


@only_cpus
def test_nothing_is_said_of_an_import_and_the_first_operation():
    done = started("-c", f"import tfssl; {USES_TENSORFLOW}")
    assert done.stdout == done.stderr == ""


@only_cpus
def test_a_binary_says_what_it_has_to_say_and_nothing_else(tmp_path):
    out = str(tmp_path / "views.png")
    told = ["--data=digits", "--recipe=simclr_digits", f"--out={out}"]
    done = started("-m", "pipelines.show_views", *told)
    assert done.stderr == ""
    (line,) = done.stdout.splitlines()
    assert line.startswith(out)


def test_who_wants_every_line_gets_it():
    done = started("-c", f"import tfssl; {USES_TENSORFLOW}", TF_CPP_MIN_LOG_LEVEL="0")
    assert "oneDNN" in done.stderr


def test_a_tensorflow_that_was_there_first_is_left_alone(monkeypatch):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    assert not startup.prepare()  # The tests have loaded it.
    assert "TF_CPP_MIN_LOG_LEVEL" not in os.environ
    monkeypatch.delitem(sys.modules, "tensorflow")
    assert startup.prepare()
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "1"
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    assert startup.prepare()
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "3"


def test_only_the_line_about_the_missing_driver_is_dropped(monkeypatch, capfd):
    monkeypatch.setattr(startup, "only_cpus", lambda: True)

    def look():
        os.write(2, b"before\nE cuda_platform.cc] failed call to cuInit: 303\nafter")

    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "1")
    startup.look_for_devices(look)
    assert capfd.readouterr().err == "before\nafter"
    for said, cpus in [("0", True), ("1", False)]:
        monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", said)
        monkeypatch.setattr(startup, "only_cpus", lambda cpus=cpus: cpus)
        startup.look_for_devices(look)
    assert capfd.readouterr().err == ""  # It was not asked to look.


def test_what_is_said_before_a_crash_is_not_lost(monkeypatch, capfd):
    monkeypatch.setattr(startup, "only_cpus", lambda: True)
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "1")

    def look():
        os.write(2, b"the reason\n")
        raise RuntimeError("no devices")

    with pytest.raises(RuntimeError, match="no devices"):
        startup.look_for_devices(look)
    assert capfd.readouterr().err == "the reason\n"


@pytest.mark.parametrize(
    "path, text, expected",
    [
        ("dev/null", "", True),
        ("dev/nvme0", "", True),  # A disk.
        ("sys/bus/pci/devices/0000:00:01.0/vendor", "0x8086\n", True),
        # A card without a driver is a fault to be told of.
        ("sys/bus/pci/devices/0000:00:01.0/vendor", "0x10de\n", False),
        ("dev/nvidiactl", "", False),
        ("dev/dxg", "", False),
        ("dev/kfd", "", False),
        ("dev/accel0", "", False),
        ("dev/vfio/0", "", False),
        ("dev/vfio/vfio", "", True),  # The driver of any virtual machine.
    ],
)
def test_accelerators_are_known_by_what_linux_shows(
    tmp_path, monkeypatch, path, text, expected
):
    monkeypatch.setattr(sys, "platform", "linux")
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(text)
    assert startup.only_cpus(tmp_path) == expected
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not startup.only_cpus(tmp_path)


def test_the_garbage_collector_is_left_as_it_was():
    for switch in (gc.disable, gc.enable):
        switch()
        before = gc.isenabled()
        with startup.uncollected():
            assert not gc.isenabled()
        assert gc.isenabled() == before
