import errno
import json
import os
import subprocess
import sys

import pytest
import tensorflow as tf

from tfssl import locks

# A process that holds a lock as `locks` does, until it is killed.
_HOLDER = """
import fcntl, json, os, sys, time
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
file.write(sys.argv[2])
file.flush()
print("held", flush=True)
time.sleep(600)
"""


def note(path):
    with tf.io.gfile.GFile(path) as file:
        return json.loads(file.read())


def test_a_second_holder_is_told_who_the_first_is(tmp_path):
    with locks.hold(tmp_path):
        holder = note(tmp_path / ".lock")
        assert holder["process"] == os.getpid()
        sentence = (
            f"{tmp_path} is in use by process {os.getpid()} on {holder['host']} since "
            f"{holder['since']}; wait for its end, or choose another folder."
        )
        with pytest.raises(locks.InUse) as caught, locks.hold(tmp_path):
            pass
        assert str(caught.value) == sentence
        with locks.hold(tmp_path, "train"):  # Another thing in the same folder.
            with pytest.raises(locks.InUse, match="/train is in use by process"):
                with locks.hold(tmp_path, "train"):
                    pass
        assert note(tmp_path / ".lock") == holder
    with locks.hold(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_a_killed_process_leaves_nothing_to_clean_up(tmp_path):
    path = tmp_path / ".lock"
    with locks.hold(tmp_path):
        content = json.dumps(note(path) | {"process": 12345})
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(path), content], stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"held\n"
    with pytest.raises(locks.InUse, match="in use by process 12345 on"):
        with locks.hold(tmp_path):
            pass
    assert path.read_text() == content
    process.kill()
    process.communicate()
    assert path.exists()
    with locks.hold(tmp_path):
        assert note(path)["process"] == os.getpid()
    assert not path.exists()


def test_a_folder_is_made_and_goes_again_if_nothing_was_put_into_it(tmp_path):
    folder = tmp_path / "new" / "run"
    with pytest.raises(KeyError), locks.hold(folder):
        assert folder.exists()
        raise KeyError
    assert not (tmp_path / "new").exists()
    with locks.hold(folder):
        (folder / "result").write_text("")
    assert os.listdir(folder) == ["result"]


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ValueError, match="output folder .*file.* cannot be writ"):
            with locks.hold(folder):
                pass
    assert os.listdir(tmp_path) == ["file"]


@pytest.fixture(params=["remote", "without system locks"])
def written(request, tmp_path, monkeypatch):
    """A folder in which the file alone decides."""
    if request.param == "remote":
        folder = f"ram://{tmp_path.name}/run"
        tf.io.gfile.makedirs(folder)
        return folder

    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    return str(tmp_path)


def leave(folder, **changes):
    """The file of a holder that was killed, with changes."""
    with locks.hold(folder):
        holder = note(f"{folder}/.lock") | changes
    with tf.io.gfile.GFile(f"{folder}/.lock", "w") as file:
        file.write(json.dumps(holder))
    return holder


def refused(folder):
    with pytest.raises(locks.InUse) as caught, locks.hold(folder):
        pass
    return str(caught.value)


def test_without_system_locks_the_file_decides(written):
    with locks.hold(written):
        assert f"process {os.getpid()} on" in refused(written)
    assert tf.io.gfile.listdir(written) == []
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    leave(written, process=ended.pid)
    with locks.hold(written):
        assert note(f"{written}/.lock")["process"] == os.getpid()
    # Its number came again, for a process that began later.
    leave(written, started=1)
    with locks.hold(written):
        pass
    # The parent of this process runs.
    leave(written, process=os.getppid(), started=locks._start_of(os.getppid()))
    assert "remove" not in refused(written)
    holder = leave_of_another_host(written)
    assert refused(written).endswith(
        f"If that process has ended, remove {written}/.lock."
    )
    assert note(f"{written}/.lock") == holder
    tf.io.gfile.remove(f"{written}/.lock")
    with locks.hold(written):
        pass


def leave_of_another_host(folder):
    tf.io.gfile.remove(f"{folder}/.lock")
    return leave(folder, host="elsewhere")
