import json
import os
import pathlib
import shutil
import subprocess

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl import files, methods
from tfssl.training import checkpoint, saving


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
    monkeypatch.setattr(files, "write_json", full_disk)
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


@pytest.mark.parametrize("num_images", [30, 40])
def test_what_belongs_to_images_starts_anew(num_images, tmp_path):
    """NCE's constant holds the number of images and fits any run by its shape."""

    def npid(num_images, seed):
        encoder = method_of(seed=seed).encoder
        method = methods.NPID(encoder, num_images=num_images, negatives=5)
        method.compile(keras.optimizers.SGD(0.1))
        method.build_optimizer()
        return method

    source, target = npid(30, 1), npid(num_images, 2)
    source.contrast.normalizer.assign(7.0)
    bank = np.array(target.contrast.bank.rows)
    source.contrast.bank.rows.assign(source.contrast.bank.rows + 1)
    path = checkpoint.save(str(tmp_path), source)
    loaded, unmatched = checkpoint.initialize(path, target)
    assert not unmatched
    assert not [name for name in loaded if "contrast" in name]
    assert float(target.contrast.normalizer) == 0
    np.testing.assert_array_equal(target.contrast.bank.rows, bank)
    for a, b in zip(source.encoder.weights, target.encoder.weights, strict=True):
        np.testing.assert_array_equal(a, b)


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


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_the_last_good_one(small_disk, caplog):
    method = method_of()
    saver = saving.Saver(str(small_disk))
    saver.set_model(method)
    saver.save()
    good, before = checkpoint.latest(str(small_disk)), values(method)
    filler = small_disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - 8192))
    method.step.assign(1)
    saver.save()  # A warning: training goes on.
    (message,) = [m for m in caplog.messages if "could not be written" in m]
    assert "checkpoint of step 1" in message and "0 MiB are free" in message
    assert f"last good checkpoint is {good}" in message
    with pytest.raises(checkpoint.SaveError, match="step 1 could not be written"):
        saver.save(required=True)
    assert sorted(os.listdir(small_disk)) == ["checkpoint-0", "filler"]
    fresh = method_of(seed=5)
    assert checkpoint.restore_latest(str(small_disk), fresh) == good
    assert_same(before, values(fresh))
    filler.unlink()
    saver.save(required=True)
    assert checkpoint.latest(str(small_disk)).endswith("checkpoint-1")


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    "name, damage",
    [
        ("variables.data-00000-of-00001", cut),
        ("variables.data-00000-of-00001", flip),
        pytest.param(
            "variables.data-00000-of-00001", os.remove, marks=pytest.mark.slow
        ),
        pytest.param("variables.index", cut, marks=pytest.mark.slow),
        pytest.param("variables.index", flip, marks=pytest.mark.slow),
        ("variables.index", os.remove),
        ("state.json", cut),
        pytest.param("state.json", flip, marks=pytest.mark.slow),
        pytest.param("state.json", os.remove, marks=pytest.mark.slow),
    ],
)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    tmp_path, caplog, name, damage
):
    folder = str(tmp_path)
    method = method_of()
    good = checkpoint.save(folder, method)
    before = values(method)
    method.step.assign(7)
    method.encoder.trainable_variables[0].assign_add(
        tf.ones_like(method.encoder.trainable_variables[0])
    )
    damage(pathlib.Path(checkpoint.save(folder, method)) / name)
    fresh = method_of(seed=5)
    untouched = values(fresh)
    with pytest.raises(checkpoint.DamagedCheckpoint, match=r"checkpoint-7.* is damag"):
        checkpoint.restore(os.path.join(folder, "checkpoint-7"), fresh)
    assert_same(untouched, values(fresh))
    assert checkpoint.restore_latest(folder, fresh) == good
    assert "The one before it is used." in caplog.text
    assert_same(before, values(fresh))
    # It is out of the way of `keep`, and of the next save of its step.
    assert sorted(os.listdir(folder)) == ["checkpoint-0", "damaged-7"]
    checkpoint.save(folder, method, keep=1)
    assert sorted(os.listdir(folder)) == ["checkpoint-7", "damaged-7"]


def test_no_changed_byte_of_the_state_passes(tmp_path):
    """It would be taken for another model, and a good older checkpoint not be used."""
    path = pathlib.Path(checkpoint.save(str(tmp_path), method_of()))
    content = (path / "state.json").read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1
        (path / "state.json").write_bytes(bytes(changed))
        with pytest.raises(checkpoint.DamagedCheckpoint, match="state.json is damaged"):
            checkpoint.read_state(path)
    (path / "state.json").write_bytes(content)
    assert checkpoint.read_state(path)["step"] == 0


def test_a_state_without_checksum_is_read(tmp_path):
    method = method_of()
    path = pathlib.Path(checkpoint.save(str(tmp_path), method))
    state = json.loads((path / "state.json").read_text())
    del state["checksum"]
    (path / "state.json").write_text(json.dumps(state | {"format": 1}))
    fresh = method_of(seed=5)
    assert checkpoint.restore_latest(str(tmp_path), fresh) == str(path)
    assert_same(values(method), values(fresh))


def test_only_damaged_checkpoints_are_no_reason_to_start_anew(tmp_path):
    method = method_of()
    cut(pathlib.Path(checkpoint.save(str(tmp_path), method)) / "variables.index")
    with pytest.raises(checkpoint.CheckpointError, match="All 1 checkpoints .* damag"):
        checkpoint.restore_latest(str(tmp_path), method)
    with pytest.raises(checkpoint.CheckpointError, match="All 1 checkpoints .* damag"):
        checkpoint.restore_latest(str(tmp_path), method)  # Nor at the second start.
    assert checkpoint.restore_latest(str(tmp_path / "empty"), method) is None


def test_a_kill_at_any_rename_leaves_a_checkpoint(tmp_path, monkeypatch):
    """Saving a step again, killed before or after each rename and removal."""

    class Killed(BaseException):
        pass

    method = method_of()
    before = values(method)
    for kill_at in range(20):
        folder = str(tmp_path / str(kill_at))
        checkpoint.save(folder, method)
        calls = []

        def counted(real, kill_at=kill_at, calls=calls):
            def call(*args, **kwargs):
                if len(calls) == kill_at:
                    raise Killed
                calls.append(real)
                return real(*args, **kwargs)

            return call

        monkeypatch.setattr(tf.io.gfile, "rename", counted(tf.io.gfile.rename))
        monkeypatch.setattr(tf.io.gfile, "rmtree", counted(tf.io.gfile.rmtree))
        try:
            checkpoint.save(folder, method, keep=1)
            killed = False
        except Killed:
            killed = True
        monkeypatch.undo()
        fresh = method_of(seed=5)
        assert checkpoint.restore_latest(folder, fresh)
        assert_same(before, values(fresh))
        checkpoint.save(folder, method, keep=1)
        assert os.listdir(folder) == ["checkpoint-0"]
        if not killed:
            break
    assert kill_at == 4  # Rename of state.json, two of folders, one removal.


def test_an_old_checkpoint_that_cannot_be_removed_is_a_warning(
    tmp_path, monkeypatch, caplog
):
    """The new one is whole; a run that ends by it has lost nothing."""

    def refused(path):
        raise tf.errors.PermissionDeniedError(None, None, f"{path} is not yours")

    folder, method = str(tmp_path), method_of()
    checkpoint.save(folder, method, keep=1)
    monkeypatch.setattr(tf.io.gfile, "rmtree", refused)
    method.step.assign(1)
    assert checkpoint.save(folder, method, keep=1) == checkpoint.latest(folder)
    assert "an old checkpoint could not be removed" in caplog.text
    assert len(checkpoint.all_checkpoints(folder)) == 2
