from tests.tasks import online_probe_test as probe
from tests.tasks import pretrain_test as small
from tfssl.tasks import pretrain

SETTINGS = small.TINY | {"epochs": 2, "checkpoint_steps": 3, "keep": 9}


def test_the_largest_gradient_survives_a_kill_and_changes_nothing(tmp_path):
    watching = SETTINGS | {"watch_gradients": True}
    whole = pretrain.pretrain(small.images(), str(tmp_path / "whole"), **watching)
    largest = [line["largest_gradient"] for line in whole.history]
    assert all(value > 0 for value in largest) and len(set(largest)) == 2
    # Step 3 is inside of the first epoch of 5 steps, and 5 its end.
    for step in (3, 5):
        path = probe.killed_after(step, whole.path, tmp_path / f"resumed{step}")
        resumed = pretrain.pretrain(small.images(), path, **watching)
        assert [line["largest_gradient"] for line in resumed.history] == largest
    without = pretrain.pretrain(small.images(), str(tmp_path / "off"), **SETTINGS)
    assert "largest_gradient" not in without.history[0]
    assert without.history[-1]["loss"] == whole.history[-1]["loss"]
