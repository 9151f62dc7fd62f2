"""Two processes train every case like one: loss, metrics, every variable.

The processes are started once for all cases, see `train_all`.
"""

import os
import pathlib
import sys

import keras
import numpy as np
import pytest

from tests import processes
from tests.fixtures import batches as made
from tests.fixtures import cases_together
from tests.methods import (
    cases,
    held_images_test,
    loss_scale_test,
    views_on_device_test,
)
from tfssl.data import pipeline, sources
from tfssl.training import checkpoint
from tfssl.training import strategy as strategies
from tfssl.training import workers as workers_lib

# One of each kind of what workers exchange: rows, sums, queues, banks, clusters.
FAST = (
    "classification",
    "deepcluster_v2",
    "dino",
    "local_aggregation",
    "moco_v2_symmetric",
    "moco_v3",
    "npid_nce",
    "simclr",
    "swav",
)


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
    stopped = stop_and_resume(folder, strategy)
    np.savez(os.path.join(folder, f"stopped-{worker}.npz"), **stopped)
    weights = held_images_test.trained(strategy)
    np.savez(os.path.join(folder, f"held-{worker}.npz"), *weights)
    states = loss_scale_test.stepped(strategy, overflow=True)
    np.savez(os.path.join(folder, f"overflow-{worker}.npz"), **states)


def stop_and_resume(folder, strategy):
    """Weights of a run through unreadable images, and of one that it was resumed to."""
    source = sources.open_source(os.path.join(folder, "data"))
    kept = os.path.join(folder, "checkpoints")
    workers = workers_lib.Workers(strategy)

    def rows_of(method, shard):
        return pipeline.multiview(
            source,
            made.recipe(cases.SIZE),
            batch_size=made.BATCH,
            start=method.reached.start(shard),
            shard=shard,
            bad_files=pipeline.BadFiles(max_fraction=0.2),
        )

    def trained(method, steps, *callbacks):
        batches = strategies.distribute(
            strategy, lambda shard: rows_of(method, shard), made.BATCH
        )
        method.fit(batches, steps_per_epoch=steps, callbacks=callbacks, verbose=0)
        return [weight.numpy() for weight in method.encoder.weights]

    class Save(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 4:
                checkpoint.save(kept, self.model, workers=workers)

    with strategy.scope():
        whole, resumed = cases.make("simclr"), cases.make("simclr")
    found = {f"whole {i}": v for i, v in enumerate(trained(whole, 9, Save()))}
    checkpoint.restore_latest(kept, resumed, workers=workers)
    found["reached"] = resumed.reached.each()
    found |= {f"resumed {i}": v for i, v in enumerate(trained(resumed, 4))}
    return found | {"ends": [whole.reached.each(), resumed.reached.each()]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, request):
    path = str(tmp_path_factory.mktemp("two_workers"))
    made.folder_of(pathlib.Path(path) / "data")
    command = [sys.executable, "-m", "tests.methods.two_workers_test", path]
    command += cases_together.chosen(request)
    ends = processes.run(2, command)
    assert [end.code for end in ends] == [0, 0], ends[0].stderr + ends[1].stderr
    return path


@cases_together.fast_for("name", FAST)
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


def test_workers_whose_places_part_go_on_where_each_was(folder):
    for worker in range(2):
        with np.load(os.path.join(folder, f"stopped-{worker}.npz")) as file:
            found = {key: file[key] for key in file.files}
        # Row 2 of 4 follows the first worker's rows, row 0 those of the second.
        first, second = found["reached"] // made.BATCH * made.BATCH
        assert {first, second - made.BATCH} != {first}
        np.testing.assert_array_equal(*found["ends"])
        wholes = [key for key in found if key.startswith("whole")]
        for key in wholes:
            resumed = found[key.replace("whole", "resumed")]
            np.testing.assert_array_equal(found[key], resumed, err_msg=key)


def test_an_overflow_on_the_last_worker_is_one_on_all(folder):
    for worker in range(2):
        with np.load(os.path.join(folder, f"overflow-{worker}.npz")) as file:
            loss_scale_test.assert_left_out(file)


if __name__ == "__main__":
    train_all(sys.argv[1], sys.argv[2:])
