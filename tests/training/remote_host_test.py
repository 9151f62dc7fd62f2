"""A process whose default device is another's, as a TPU slice's: what it writes.

The other's working directory is another one, where a relative path shows who wrote.
"""

import os
import signal
import sys

import pytest
import tensorflow as tf

from tests import processes
from tests.training import checkpoint_test
from tfssl.training import checkpoint, history

_DISK = "a_disk_of_mine"


def serve(address):
    """Is the other host."""
    os.chdir("/")
    cluster = tf.train.ClusterSpec({"worker": [address]})
    tf.distribute.Server(cluster, job_name="worker", task_index=0).join()


def write(address, folder):
    """Writes as a run does, and fails as one whose disk is full."""
    os.chdir(folder)
    cluster = tf.train.ClusterSpec({"worker": [address]})
    tf.config.experimental_connect_to_cluster(
        tf.distribute.cluster_resolver.SimpleClusterResolver(
            cluster, master=f"grpc://{address}"
        )
    )
    method = checkpoint_test.method_of()
    assert "/job:worker" in tf.convert_to_tensor(method.step.value).device
    method.step.assign(3)
    path = checkpoint.save(_DISK, method)
    expected = checkpoint_test.values(method)
    read = tf.train.load_checkpoint(os.path.join(path, "variables"))
    assert len(read.get_variable_to_shape_map()) >= len(expected)
    other = checkpoint_test.method_of(seed=1)
    assert checkpoint.restore_latest(_DISK, other) == path
    checkpoint_test.assert_same(expected, checkpoint_test.values(other))
    curves = history.Curves(os.path.join(_DISK, "curves"))
    curves.set_model(method)
    curves.on_epoch_end(0, {"loss": 1.0})
    assert os.listdir(curves.folder)

    makedirs = tf.io.gfile.makedirs
    tf.io.gfile.makedirs = lambda path: None  # The folder goes in the middle.
    method.step.assign(4)
    with pytest.raises(checkpoint.SaveError, match="step 4 could not be written"):
        checkpoint.save("nowhere", method)
    tf.io.gfile.makedirs = makedirs
    checkpoint.save(_DISK, method)  # The failure is over.
    assert len(checkpoint.all_checkpoints(_DISK)) == 2


def test_what_a_host_of_a_slice_writes_is_its_own(tmp_path):
    (port,) = processes.free_ports(1)
    command = [sys.executable, "-m", "tests.training.remote_host_test"]
    env = os.environ | {"PYTHONPATH": processes.ROOT}
    address = f"127.0.0.1:{port}"
    other = processes.Worker([*command, "serve", address], env)
    try:
        end = processes.Worker([*command, "write", address, str(tmp_path)], env).wait()
    finally:
        if other.poll() is None:
            other.send_signal(signal.SIGKILL)
        other.wait()
    assert end.code == 0, end.stderr


if __name__ == "__main__":
    {"serve": serve, "write": write}[sys.argv[1]](*sys.argv[2:])
