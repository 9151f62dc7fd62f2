import os

import pytest

from tests.tasks.finetune_test import tuned


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of a run whose own files are gone, and not those of its baseline."""
    out = tmp_path_factory.mktemp("run")
    tuned(out / "baseline", epochs=1)
    return out


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"label_smoothing": 0.1},
            "baseline was trained with other settings: .*label_",
        ),
        ({"resume": False}, "baseline/checkpoints holds checkpoints and resume is off"),
    ],
)
def test_another_baseline_is_found_before_the_training(folder, settings, message):
    before = sorted(os.listdir(folder / "baseline"))
    with pytest.raises(ValueError, match=message):
        tuned(folder, epochs=1, baseline=True, **settings)
    assert os.listdir(folder) == ["baseline"]
    assert sorted(os.listdir(folder / "baseline")) == before
