"""Two processes train every case like one: loss, metrics, every variable.

The processes are started once for all cases, see `train_all`.
"""

import os
import sys

import numpy as np
import pytest

from tests import processes
from tests.fixtures import cases_together
from tests.methods import cases, held_images_test, views_on_device_test
from tfssl.training import strategy as strategies


def train_all(folder, names):
    """Trains cases as one of several workers and writes what came out."""
    strategy = strategies.make("multi_worker")
    worker = strategy.cluster_resolver.task_id
    for name in names:
        with strategy.scope():
            method = cases.make(name)
        logs = cases.train(method, cases.batches(name), strategy=strategy)
        values = {f"log {key}": value for key, value in logs.items()}
        state = cases.state(method)
        values |= {f"{i:04d} {path}": v for i, (path, v) in enumerate(state.items())}
        held_out = cases.evaluate(method, cases.batches(name), strategy=strategy)
        values |= {f"test {key}": value for key, value in held_out.items()}
        np.savez(os.path.join(folder, f"{name}-{worker}.npz"), **values)
    weights = held_images_test.trained(strategy)
    np.savez(os.path.join(folder, f"held-{worker}.npz"), *weights)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, request):
    path = str(tmp_path_factory.mktemp("two_workers"))
    command = [sys.executable, "-m", "tests.methods.two_workers_test", path]
    command += cases_together.chosen(request)
    ends = processes.run(2, command)
    assert [end.code for end in ends] == [0, 0], ends[0].stderr + ends[1].stderr
    return path


@cases_together.every_name
def test_two_workers_equal_one(name, folder):
    method = cases.make(name)
    logs = cases.train(method, cases.batches(name))
    state = cases.state(method)
    held_out = cases.evaluate(method, cases.batches(name))
    found = []
    for worker in range(2):
        with np.load(os.path.join(folder, f"{name}-{worker}.npz")) as file:
            found.append({key: file[key] for key in file.files})
    for key, value in found[0].items():
        np.testing.assert_array_equal(value, found[1][key], err_msg=key)
    for kind, expected in (("log", logs), ("test", held_out)):
        for key, value in expected.items():
            seen = float(found[0].pop(f"{kind} {key}"))
            assert seen == pytest.approx(value, rel=1e-5, abs=1e-6), key
    cases.assert_close(state, found[0])
    assert int(method.step.numpy()) == cases.STEPS


def test_each_worker_has_images_on_its_devices(folder):
    expected = held_images_test.trained(place="host")
    for worker in range(2):
        with np.load(os.path.join(folder, f"held-{worker}.npz")) as file:
            views_on_device_test.assert_near(file.values(), expected)


if __name__ == "__main__":
    train_all(sys.argv[1], sys.argv[2:])
