"""What is CPC's own; what every method promises is in contract_test.py."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.methods.cases import SIZE, batch_of, tiny_encoder, tiny_patches
from tfssl import data, methods, models
from tfssl.data.views import recipes
from tfssl.models import context

SMALL = dict(embedding_dim=4, context_blocks=2, context_hidden=6)


def made(**arguments):
    keras.utils.set_random_seed(0)
    return methods.CPC(tiny_patches(), **SMALL | arguments)


def of_grid(rows, columns, **arguments):
    """CPC over patches of 4 pixels that lie side by side."""
    keras.utils.set_random_seed(0)
    inner = models.resnet(18, width=1 / 16, stem="cifar", norm="layer")
    encoder = models.PatchEncoder(
        inner, patch=4, stride=4, image_shape=(4 * rows, 4 * columns, 3)
    )
    return methods.CPC(encoder, **SMALL | arguments)


def images(batch=3, height=SIZE, width=SIZE):
    rng = np.random.default_rng(0)
    return rng.uniform(size=(batch, height, width, 3)).astype("float32")


def slow_loss(method, grid, batch):
    """The paper's formula with loops, float64: the mean of each image's choices."""
    kernel, bias = (w.astype(np.float64) for w in method.targets.get_weights())
    found = [[] for _ in range(batch)]
    for side in range(4):
        turned = np.rot90(grid, side, (1, 2))
        number = side % len(method.contexts)
        network = method.contexts[number]
        predicted = np.array(network(turned), np.float64) * method.embedding_scale
        part = slice(4 * number, 4 * number + 4)
        target = (turned.astype(np.float64) @ kernel + bias)[..., part]
        _, rows, columns, _ = target.shape
        for position, offset in enumerate(method.offsets):
            for image in range(batch):
                losses = []
                for row in range(rows - offset):
                    for column in range(columns):
                        p = predicted[image, row, column, 4 * position :][:4]
                        sums = np.exp(target @ p)
                        own = sums[image, row + offset, column]
                        losses.append(-math.log(own / sums.sum()))
                found[image].append(np.mean(losses))
    return np.mean(found, axis=1)


@pytest.mark.parametrize(
    "rows, columns, arguments",
    [
        (3, 3, dict(offsets=(1,))),
        (4, 3, dict()),
        (3, 3, dict(offsets=(2, 1), share_context=True, block_size=5)),
    ],
)
def test_loss_is_the_papers(rows, columns, arguments):
    method = of_grid(rows, columns, embedding_scale=0.7, **arguments)
    x = images(3, 4 * rows, 4 * columns)
    values = method.image_losses(batch_of(x), training=False)
    grid = method.encoder.grid(x).numpy()
    assert grid.shape[1:3] == (rows, columns)
    expected = slow_loss(method, grid, 3)
    np.testing.assert_allclose(values["loss"], expected, rtol=1e-4)
    assert expected.std() > 1e-3


@pytest.mark.parametrize("side", range(4))
@pytest.mark.parametrize("offset", [1, 2])
def test_no_prediction_sees_what_it_predicts_nor_what_lies_behind(side, offset):
    """Nothing of a row `i + offset` or below enters the prediction at row `i`."""
    method = of_grid(5, 5, offsets=(offset,), context_blocks=5)
    grid = np.random.default_rng(0).normal(size=(2, 5, 5, method.feature_dim))
    grid = tf.constant(grid, tf.float32)
    for row in range(5 - offset):
        with tf.GradientTape() as tape:
            tape.watch(grid)
            (found,) = method.predictions(grid, side)
            found = found[:, row]
        seen = np.abs(tape.gradient(found, grid)).sum((0, 3)) > 0
        seen = np.rot90(seen, side)
        assert not seen[row + 1 :].any()
        assert seen[: row + 1].any(1).all()


def test_the_first_row_from_each_side_is_another_one():
    method = of_grid(4, 4)
    for side, first in enumerate([np.s_[0], np.s_[:, -1], np.s_[-1], np.s_[:, 0]]):
        marks = np.zeros((1, 4, 4, 1))
        marks[0][first] = 1
        assert context.turned(tf.constant(marks), side)[0, 0].numpy().all()
        grid = np.random.default_rng(0).normal(size=(1, 4, 4, method.feature_dim))
        before = method.predictions(tf.constant(grid, tf.float32), side)[0]
        grid[0] *= np.where(marks[0], 1, 2)
        after = method.predictions(tf.constant(grid, tf.float32), side)[0]
        np.testing.assert_array_equal(before[:, 0], after[:, 0])
        assert np.abs(before - after)[:, 1:].max() > 0


def test_offsets_begin_where_patches_share_no_pixel():
    assert made().offsets == (2,)  # 8 pixels, stride 4, 3 x 3.
    assert of_grid(5, 4).offsets == (1, 2, 3)
    assert made(offsets=1).offsets == (1,)
    papers = models.PatchEncoder(
        tiny_patches().encoder, patch=80, stride=36, image_shape=(260, 260, 3)
    )
    assert methods.CPC(papers, **SMALL).offsets == (3, 4, 5)


def test_what_cannot_tell_patches_apart_has_the_chance_loss():
    method = made()
    method.targets.set_weights([w * 0 for w in method.targets.get_weights()])
    losses = method.image_losses(batch_of(images(5)), training=True)["loss"]
    np.testing.assert_allclose(losses, math.log(5 * 9), rtol=1e-6)
    assert method.chance_loss(5) == pytest.approx(math.log(45))
    assert method.num_negatives(5) == 44


def test_blocks_give_the_loss_and_gradient_of_all_at_once():
    def run(block_size):
        method = made(block_size=block_size, augmentation={"primitives": 0})
        with tf.GradientTape() as tape:
            found = method.image_losses(batch_of(images(4)), training=True)["loss"]
        variables = [v.value for v in method.learned_variables]
        return found, tape.gradient(found, variables)

    (plain, slopes), (blockwise, others) = run(None), run(7)
    np.testing.assert_allclose(plain, blockwise, rtol=1e-5)
    largest = max(np.abs(g).max() for g in slopes)
    for a, b in zip(slopes, others):
        np.testing.assert_allclose(a, b, atol=1e-5 * largest)


def losses_of(method, position, training=True):
    batch = batch_of(images()) | {"position": tf.constant(position, tf.int64)}
    return method.image_losses(batch, training)["loss"].numpy()


def test_patches_are_augmented_by_seed_and_place_and_only_in_training():
    method = made(embedding_scale=2.0)
    first = losses_of(method, [4, 5, 6])
    np.testing.assert_array_equal(losses_of(method, [4, 5, 6]), first)
    assert np.abs(losses_of(method, [7, 8, 9]) - first).max() > 1e-3
    other = made(embedding_scale=2.0, seed=1)
    assert np.abs(losses_of(other, [4, 5, 6]) - first).max() > 1e-3
    plain = losses_of(method, [4, 5, 6], training=False)
    np.testing.assert_array_equal(losses_of(method, [7, 8, 9], training=False), plain)
    assert np.abs(plain - first).max() > 1e-3


def test_batches_that_the_device_finishes_are_augmented_alike():
    source = data.open_source(images(12))
    recipe = recipes.CPC_V2_CIFAR10.scaled(SIZE)
    found = []
    for place in ("host", "device"):
        stream = data.multiview(source, recipe, batch_size=4, augment_on=place)
        batch = data.views.finish(next(iter(stream)), recipe)
        found.append(made().image_losses(batch, training=True)["loss"])
    np.testing.assert_allclose(*found, rtol=1e-5)


def colours(count, seed):
    """Images of one colour each, and noise: patches of an image know each other."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.1, 0.9, (count, 1, 1, 3)) + rng.normal(
        0, 0.05, (count, SIZE, SIZE, 3)
    )
    return np.clip(x, 0, 1).astype("float32")


def test_training_beats_chance_on_images_not_seen():
    light = dict(primitives=0, histogram=0.0, jitter=0.0, gray=0.0, color_drop=0.0)
    method = made(augmentation=light, embedding_scale=1.0)
    method.compile(keras.optimizers.Adam(5e-3))
    method.build_optimizer()
    step = tf.function(method.train_step, autograph=False)
    for number in range(60):
        step(batch_of(colours(16, number)))
    found = method.image_losses(batch_of(colours(16, 99)), training=False)["loss"]
    # Which image is found, which of its nine places cannot be.
    assert np.mean(found) < 0.8 * method.chance_loss(16)


def test_notes_say_the_grid_and_the_memory_of_the_logits():
    grid, logits = made().notes(256, 1000)
    assert "3 x 3 of 8 pixels, stride 4; each place predicts 2 row(s)" in grid
    # Four directions of 3 predictions in 256 images, among 9 * 256 patches, float32.
    assert f"logits: {4 * 4 * 3 * 256 * 9 * 256 / 2**20:.0f} MiB" in logits
    blocks = made(block_size=256).notes(256, 1000)[-1]
    assert "at most 3 MiB on each device, in blocks of 256 of 2304 targets" in blocks
    overlapping = made(offsets=(1,)).notes(256, 1000)
    assert any("less than 2 rows apart share pixels" in line for line in overlapping)
    inner = tiny_encoder()
    encoder = models.PatchEncoder(inner, patch=8, stride=4, image_shape=(16, 16, 3))
    notes = methods.CPC(encoder, **SMALL).notes(4, 10)
    assert any("has batch norm" in line for line in notes)
    assert "block_size bounds them" in of_grid(8, 8).notes(512, 1000)[-1]


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match=r"learns from patches.*--encoder=patches"):
        methods.CPC(tiny_encoder())
    unknown = models.PatchEncoder(
        tiny_encoder(), patch=8, stride=4, image_shape=(None, None, 3)
    )
    with pytest.raises(ValueError, match="must know their grid"):
        methods.CPC(unknown)
    overlapping = models.PatchEncoder(
        tiny_encoder(), patch=12, stride=2, image_shape=(16, 16, 3)
    )
    with pytest.raises(ValueError, match="no two rows that share no pixel"):
        methods.CPC(overlapping)
    with pytest.raises(ValueError, match="offsets=3 received"):
        made(offsets=(1, 3))
    with pytest.raises(ValueError, match="different whole numbers"):
        made(offsets=(1, 1))
    with pytest.raises(ValueError, match="the crop has no room"):
        made(augmentation={"crop": 9})
    with pytest.raises(ValueError, match="augmentation 'blur' received, but a patch"):
        made(augmentation={"blur": 1.0})
    with pytest.raises(ValueError, match="a dict of changes"):
        made(augmentation=0.5)
    with pytest.raises(ValueError, match="batch_size=1 received"):
        made().check_run(1, None)
    with pytest.raises(ValueError, match="takes 1"):
        methods.CPC.check_recipe(recipes.SIMCLR)
    with pytest.raises(ValueError, match="leave mean and std out"):
        methods.CPC.check_recipe(recipes.DEEPCLUSTER)
