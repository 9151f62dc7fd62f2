import json
import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl import methods
from tfssl.training import checkpoint


def method_of(width=8, projection_dim=4, optimizer=None, seed=0, kind=methods.SimCLR):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(width, 3, name="conv")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Dropout(0.1)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    method = kind(keras.Model(inputs, x), projection_dim=projection_dim)
    method.compile(optimizer or keras.optimizers.Adam(1e-2))
    return method


def data(steps=4, start=0, batch=8):
    rng = np.random.default_rng(3)
    shape = (steps * batch, 8, 8, 3)
    rows = np.arange(steps * batch)
    views = {f"view_{i}": rng.uniform(size=shape).astype("float32") for i in range(2)}
    dataset = tf.data.Dataset.from_tensor_slices(
        {"views": views, "index": rows, "position": rows}
    )
    return dataset.batch(batch).skip(start)


def values(method):
    named = checkpoint.named_variables(method)
    return {name: tf.convert_to_tensor(v).numpy() for name, v in named.items()}


def assert_same(a, b):
    assert list(a) == list(b)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_names_are_unique_complete_and_stable():
    first, second = method_of(), method_of()
    names = list(checkpoint.named_variables(first))
    assert names == list(checkpoint.named_variables(second))
    variables = list(first.variables) + list(first.optimizer.variables)
    tracked = {id(v) for v in checkpoint.named_variables(first).values()}
    for variable in variables:
        assert id(variable.value) in tracked, variable.path
    # tf.train.Checkpoint(model=…) would lose the state of the dropout.
    assert any("seed_generator_state" in name for name in names)


def test_restore_continues_as_if_nothing_had_happened(tmp_path):
    straight = method_of()
    straight.fit(data(4), verbose=0)

    first = method_of()
    first.fit(data(4).take(2), verbose=0)
    path = checkpoint.save(str(tmp_path), first)
    second = method_of(seed=99)
    state = checkpoint.restore(path, second)
    assert state["step"] == 2 and state["position"] == 16
    assert_same(values(first), values(second))
    second.fit(data(4, start=2), verbose=0)
    expected, found = values(straight), values(second)
    for name in expected:
        if not name.startswith("metrics/"):  # fit resets them.
            np.testing.assert_array_equal(expected[name], found[name], err_msg=name)


def test_only_complete_checkpoints_count_and_old_ones_go(tmp_path):
    folder = str(tmp_path)
    method = method_of()
    paths = []
    for step in range(5):
        method.step.assign(step)
        paths.append(
            checkpoint.save(folder, method, keep=2, protect=(paths[:1] or [""]))
        )
    left = [os.path.basename(p) for p in checkpoint.all_checkpoints(folder)]
    assert left == ["checkpoint-0", "checkpoint-3", "checkpoint-4"]
    assert sorted(os.listdir(folder)) == sorted(left)
    # A writer that died leaves its part folder: not a checkpoint, and no harm.
    os.makedirs(tmp_path / ".part-9")
    (tmp_path / ".part-9" / "variables.index").write_text("half")
    assert checkpoint.latest(folder) == paths[-1]
    method.step.assign(9)
    assert checkpoint.latest(folder) != checkpoint.save(folder, method)
    assert checkpoint.latest(folder).endswith("checkpoint-9")


def test_a_failed_write_leaves_the_last_good_one(tmp_path, monkeypatch):
    folder = str(tmp_path)
    method = method_of()
    good = checkpoint.save(folder, method)
    before = values(method)

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    method.step.assign(1)
    monkeypatch.setattr(checkpoint.files, "write_json", full_disk)
    with pytest.raises(checkpoint.SaveError, match=r"No space .* last good .*-0\."):
        checkpoint.save(folder, method)
    monkeypatch.undo()
    assert checkpoint.latest(folder) == good
    fresh = method_of(seed=5)
    checkpoint.restore(good, fresh)
    assert_same(before, values(fresh))


def test_another_architecture_is_refused_and_nothing_touched(tmp_path):
    path = checkpoint.save(str(tmp_path), method_of())
    other = method_of(width=6, seed=4)
    before = values(other)
    with pytest.raises(checkpoint.CheckpointError, match=r"written by another model"):
        checkpoint.restore(path, other)
    assert_same(before, values(other))
    sgd = method_of(optimizer=keras.optimizers.SGD(0.1))
    with pytest.raises(checkpoint.CheckpointError, match="optimizer/.* has no place"):
        checkpoint.restore(path, sgd)
    with pytest.raises(checkpoint.CheckpointError, match=r"no state\.json"):
        checkpoint.restore(str(tmp_path), other)


def test_initialize_takes_weights_only_and_reports_the_rest(tmp_path):
    source = method_of(seed=1)
    source.fit(data(2), verbose=0)
    path = checkpoint.save(str(tmp_path), source)
    target = method_of(projection_dim=6, seed=2)
    loaded, unmatched = checkpoint.initialize(path, target)
    assert "method/conv/kernel" in loaded
    assert any("last_dense/kernel" in line for line in unmatched)
    np.testing.assert_array_equal(
        source.encoder.get_layer("conv").kernel, target.encoder.get_layer("conv").kernel
    )
    assert int(target.step.numpy()) == 0
    assert int(target.optimizer.iterations.numpy()) == 0


def test_a_target_network_starts_from_the_loaded_weights(tmp_path):
    source = method_of(seed=1)
    source.fit(data(2), verbose=0)
    path = checkpoint.save(str(tmp_path / "simclr"), source)
    byol = method_of(seed=2, kind=methods.BYOL)
    loaded, unmatched = checkpoint.initialize(path, byol)
    assert "method/conv/kernel" in loaded
    # Weights and moving statistics of the encoder, and the projector that had no
    # match: the target is a copy of all of them, and is not reported as missing.
    online = byol.encoder.weights + byol.projector.weights
    for a, b in zip(online, byol.target.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(
        byol.target.networks[0].get_layer("conv").kernel,
        source.encoder.get_layer("conv").kernel,
    )
    assert not any("target/" in line for line in unmatched)
    assert any("predictor" in line or "last_dense" in line for line in unmatched)


def test_a_target_network_of_the_same_method_is_loaded(tmp_path):
    source = method_of(seed=1, kind=methods.BYOL)
    source.fit(data(2), verbose=0)
    path = checkpoint.save(str(tmp_path), source)
    other = method_of(seed=2, kind=methods.BYOL)
    loaded, unmatched = checkpoint.initialize(path, other)
    assert not unmatched
    assert "method/target/conv/kernel" in loaded
    for a, b in zip(source.target.weights, other.target.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    moved = np.abs(np.array(other.target.weights[0]) - other.encoder.weights[0])
    assert moved.max() > 0


@pytest.mark.parametrize("replicas", [1, 2])
def test_state_moves_between_replica_counts(tmp_path, mirrored, replicas):
    with mirrored(2).scope():
        wide = method_of(seed=1)
    path = checkpoint.save(str(tmp_path), wide)
    state = json.load(open(os.path.join(path, "state.json")))
    assert state["method"] == "SimCLR"
    strategy = mirrored(2) if replicas == 2 else tf.distribute.get_strategy()
    with strategy.scope():
        other = method_of(seed=2)
        checkpoint.restore(path, other)
    assert_same(values(wide), values(other))
