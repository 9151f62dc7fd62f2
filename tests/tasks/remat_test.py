"""`remat` as a setting of a start: a run may have it for a part, and no file knows."""

import functools
import os

import keras
import numpy as np
import pytest

from tests.fixtures import copied_runs
from tests.methods import cases
from tests.tasks import pretrain_test as small
from tfssl.tasks import pretrain, runs
from tfssl.training import checkpoint

# With dropout, whose masks must be those of the straight run.
SMALL = small.TINY | {
    "encoder": "alexnet",
    "encoder_args": {"width": 1 / 64, "stem": "cifar"},
    "image_size": 32,
}


def run(path, **settings):
    return pretrain.pretrain(small.images(size=32), str(path), **SMALL | settings)


def test_a_run_may_go_on_with_it(tmp_path, capsys):
    straight = copied_runs.whole(run, tmp_path)
    train = functools.partial(run, remat=True, verbose=1)
    parts = copied_runs.resumed(train, tmp_path, tmp_path / "parts")
    assert "(augment_on=auto), remat on" in capsys.readouterr().out
    assert parts.method.encoder.remat and not straight.method.encoder.remat
    assert parts.settings["remat"] is True
    expected, found = (
        {k: np.array(v) for k, v in checkpoint.named_variables(x.method).items()}
        for x in (straight, parts)
    )
    cases.assert_close(expected, found)
    loaded = runs.load(str(tmp_path / "parts"))
    batch = np.random.default_rng(0).uniform(size=(3, 32, 32, 1)).astype("float32")
    np.testing.assert_array_equal(loaded(batch), parts.encoder(batch))
    network = keras.saving.load_model(tmp_path / "parts" / "encoder.keras")
    assert network.remat is False


def test_an_encoder_whose_blocks_nobody_knows_is_refused(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(ValueError, match="remat=True received with the encoder .*'res"):
        pretrain.pretrain(small.images(), str(out), remat=True, **small.TINY)
    assert not os.path.exists(out)
