"""What a new process reads back of every method is the same, bit by bit."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests.fixtures import cases_together
from tests.methods import cases
from tfssl.training import checkpoint

_ROOT = pathlib.Path(__file__).parents[2]
_BEFORE, _AFTER = 3, 4

# What is kept beside networks and an optimizer: averages, schedules, queues, banks,
# clusters, what is drawn by the step.
every_state = cases_together.fast_for(
    "name",
    [
        "beit",
        "byol",
        "classification",
        "cmc_nce",
        "cpc",
        "deepcluster",
        "deepcluster_v2",
        "dino",
        "dvae",
        "local_aggregation",
        "moco_v2_symmetric",
        "npid_nce",
        "pirl_both",
        "simclr_memory",
        "swav",
    ],
)

# Other objects are made first, so that Keras numbers its names differently there.
_NEW_PROCESS = f"""
import pathlib, sys
import keras
import numpy as np
from tests.methods import cases
from tests.methods import resume_test
from tfssl.training import checkpoint
cases.make("simclr")
for name in sys.argv[2:]:
    folder = pathlib.Path(sys.argv[1]) / name
    method = cases.make(name)
    checkpoint.restore(checkpoint.latest(str(folder)), method)
    resume_test.save_state(folder / "after.npz", name, method, {_BEFORE}, {_AFTER})
    method = keras.saving.load_model(folder / "method.keras")
    encoder = keras.saving.load_model(folder / "encoder.keras")
    resume_test.save_outputs(folder / "loaded.npz", name, method, encoder)
"""


def save_state(path, name, method, start, steps):
    """Trains on from step `start`; writes variables and metrics."""
    data = cases.batches(name, start + steps).skip(start * cases.BATCH)
    logs = cases.train(method, data, steps=steps)
    variables = checkpoint.named_variables(method)
    np.savez(path, **{k: v.numpy() for k, v in variables.items()}, **logs)


def save_outputs(path, name, method, encoder):
    """What a method and its encoder make of some images."""
    images = next(iter(cases.batches(name, 1).batch(cases.BATCH)))["views"]["view_0"]
    if images.shape.rank == 5:  # In tiles, of which each is an image.
        images = images[:, 0]
    images = images[..., : encoder.inputs[0].shape[-1]]  # Without a map behind.
    np.savez(
        path,
        features=encoder(images),
        of_method=method(images),
        embeddings=method.embed(images),
    )


@pytest.fixture(scope="module")
def resumed(tmp_path_factory, request):
    """For every case the folder of a straight run and of one that was resumed."""
    folder = tmp_path_factory.mktemp("resume")
    names = cases_together.chosen(request)
    for name in names:
        method = cases.make(name)
        cases.train(method, cases.batches(name, _BEFORE), steps=_BEFORE)
        checkpoint.save(str(folder / name), method)
        method.save(folder / name / "method.keras")
        method.encoder.save(folder / name / "encoder.keras")
        save_outputs(folder / name / "saved.npz", name, method, method.encoder)
        save_state(folder / name / "straight.npz", name, method, _BEFORE, _AFTER)
    subprocess.run(
        [sys.executable, "-c", _NEW_PROCESS, str(folder), *names],
        cwd=_ROOT,
        check=True,
        stderr=subprocess.DEVNULL,
    )
    return folder


@every_state
def test_state_and_metrics_continue_bit_by_bit(name, resumed):
    straight = np.load(resumed / name / "straight.npz")
    after = np.load(resumed / name / "after.npz")
    assert sorted(straight) == sorted(after)
    assert "loss" in after
    for key, value in straight.items():
        np.testing.assert_array_equal(value, after[key], err_msg=key)
    assert int(after["method/step"]) == _BEFORE + _AFTER


@every_state
def test_saved_files_give_the_same_features(name, resumed):
    saved = np.load(resumed / name / "saved.npz")
    loaded = np.load(resumed / name / "loaded.npz")
    for key in ("features", "of_method", "embeddings"):
        np.testing.assert_array_equal(saved[key], loaded[key], err_msg=key)
    np.testing.assert_array_equal(saved["features"], saved["of_method"])
