import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.tasks import pretrain_test as small
from tfssl.data import sources
from tfssl.tasks import groups, online_probe, pretrain, recorded
from tfssl.training import checkpoint

SETTINGS = small.TINY | {
    "validation_data": small.images(seed=1),
    "online_probe_epochs": 1,
    "online_probe_data": small.images(n=30, seed=2),  # A set of its own.
    "checkpoint_steps": 3,
    "keep": 9,
    "epochs": 2,
}


def contents(out):
    path = os.path.join(checkpoint.latest(os.path.join(out, "checkpoints")))
    reader = tf.train.load_checkpoint(os.path.join(path, "variables"))
    return {k: reader.get_tensor(k) for k in reader.get_variable_to_shape_map()}


def killed_after(step, out, into):
    """A copy of a run as a process leaves it that is killed after a checkpoint."""
    shutil.copytree(out, into)
    for path in checkpoint.all_checkpoints(os.path.join(into, "checkpoints")):
        if not path.endswith(f"-{step}"):
            shutil.rmtree(path)
    return str(into)


def accuracies(run):
    return [line.get("probe_accuracy") for line in run.history]


def test_the_probe_survives_a_kill_and_its_absence_changes_nothing(tmp_path, caplog):
    whole = pretrain.pretrain(small.images(), str(tmp_path / "whole"), **SETTINGS)
    assert len(accuracies(whole)) == 2 and accuracies(whole)[-1] > 0.7
    expected = contents(whole.path)
    probe = {k: v for k, v in expected.items() if "online_probe" in k}
    assert len(probe) == 8  # Step, kernel, bias, momenta, mean, variance, position.

    # Step 6 is inside the second epoch of 5 steps.
    path = killed_after(6, whole.path, tmp_path / "resumed")
    resumed = pretrain.pretrain(small.images(), path, **SETTINGS)
    assert accuracies(resumed) == accuracies(whole)
    found = contents(path)
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(value, found[name], err_msg=name)

    # The same checkpoint without the probe: the encoder ends as with it.
    path = killed_after(6, whole.path, tmp_path / "without")
    off = {"online_probe_epochs": 0, "online_probe_data": None}
    without = pretrain.pretrain(small.images(), path, **SETTINGS | off)
    assert accuracies(without)[-1] is None
    found = contents(path)
    assert set(found) == set(expected) - set(probe)
    for name, value in found.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)

    # And the probe joins a run that had none.
    caplog.clear()
    longer = SETTINGS | {"epochs": 3, "allow_changes": ("epochs",)}
    joined = pretrain.pretrain(small.images(), path, **longer)
    assert sum("it starts anew" in message for message in caplog.messages) == 1
    assert accuracies(joined)[-1] > 0.5
    assert int(joined.method.step.numpy()) == 15
    assert recorded.settings_of(path)["online_probe_epochs"] == 1


def test_two_replicas_with_mixed_precision_and_the_runs_own_labels(tmp_path, mirrored):
    mirrored(2)  # Fresh collective keys for the strategy that the task makes.
    changes = {"online_probe_data": None, "checkpoint_steps": None}
    run = pretrain.pretrain(
        small.images(),
        str(tmp_path),
        strategy="mirrored",
        num_replicas=2,
        precision="mixed_bfloat16",
        **SETTINGS | changes,
    )
    assert accuracies(run)[-1] > 0.7


def test_classes_of_the_probes_images_are_matched_by_name():
    def source(seed, labels, names):
        images, _ = small.images(n=len(labels), seed=seed)
        return sources.ArraySource(images, labels, class_names=names)

    train = source(0, [0, 0, 0, 0], None)
    train.labels = None
    validation = source(1, [0, 1, 1], ("ant", "cat"))
    own = source(2, [0, 1, 2, 0], ("ant", "bee", "cat"))
    chosen = groups.Monitors(online_probe_epochs=1, online_probe_data=own)
    found = online_probe.images(None, train, validation, groups.Images(), chosen)
    assert found.class_names == ("ant", "cat", "bee")
    assert found.labels.tolist() == [0, 2, 1, 0]


@pytest.mark.parametrize(
    "data, images, probe",
    [
        ("digits", {"validation_split": "test"}, {"online_probe_split": "test"}),
        ("digits", {"validation_split": "test"}, {"online_probe_split": "all"}),
        ("digits", {"validation_fraction": 0.3}, {"online_probe_data": "digits"}),
        (small.images(), {"validation_data": small.images(seed=1)},
         {"online_probe_data": small.images(seed=1)}),
    ],
)  # fmt: skip
def test_images_that_judge_the_probe_do_not_train_it(data, images, probe):
    opened = groups.Images()
    train, validation = groups.Validation(**images).sources(data, opened, 0)
    told = "validation images .* are among those that train the online probe"
    with pytest.raises(ValueError, match=f"{told} .* leave online_probe_data and"):
        chosen = groups.Monitors(online_probe_epochs=1, **probe)
        online_probe.images(data, train, validation, opened, chosen)
    chosen = groups.Monitors(online_probe_epochs=1)
    assert online_probe.images(data, train, validation, opened, chosen) is train
