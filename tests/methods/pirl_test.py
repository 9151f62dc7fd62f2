import numpy as np
import pytest

from tests.losses.nce_test import slow
from tests.methods import cases
from tfssl import methods
from tfssl.methods import bank_contrast, transforms

_COUNT = 40


def made(**changes):
    """A PIRL whose heads are not small, on an encoder of any size of image."""
    settings = dict(
        num_images=_COUNT, num_tiles=4, negatives=7, projection_dim=5, seed=3
    )
    method = methods.PIRL(cases.tiny_encoder(), **settings | changes)
    rng = np.random.default_rng(1)
    for head in (method.projector, method.transform_projector):
        for variable in head.trainable_variables:
            variable.assign(rng.normal(size=variable.shape))
    return method


def batch_for(transform):
    rng = np.random.default_rng(2)
    view, other = rng.uniform(size=(2, 5, 16, 16, 3)).astype("float32")
    if transform != "rotation":
        other = cases.in_tiles(other, 2)
    batch = cases.batch_of(view, other, index=[8, 3, 30, 0, 39])
    batch["position"] += 70
    return batch


def dense(model, x):
    """A head of dense layers in NumPy, with ReLU between them."""
    weights = [np.array(v, np.float64) for v in model.trainable_variables]
    for i in range(0, len(weights), 2):
        x = x @ weights[i] + weights[i + 1]
        if i + 2 < len(weights):
            x = np.maximum(x, 0)
    return x


def encoded(method, images):
    return np.array(method.encoder(np.float32(images), training=False), np.float64)


def of_transform(method, batch):
    """What `g` makes of the transformed images, one after the other."""
    position, seed = batch["position"], method.seed
    turns = transforms.choices(seed, position, 4, purpose="turn").numpy()
    orders = transforms.orders(seed, position, 4, purpose="order of tiles").numpy()
    found = []
    for image, turn, order in zip(batch["views"]["view_1"].numpy(), turns, orders):
        if method.transform == "rotation":
            features = encoded(method, [np.rot90(image, turn)])
            found.append(dense(method.transform_projector, features)[0])
            continue
        if method.transform == "both":
            image = [np.rot90(tile, turn) for tile in image]
        tiles = [
            dense(method.transform_projector, encoded(method, [image[tile]]))[0]
            for tile in order
        ]
        side_by_side = np.concatenate(tiles)
        if method.projection_layers > 1:
            side_by_side = np.maximum(side_by_side, 0)
        found.append(dense(method.tiles_projector, side_by_side))
    return np.array(found)


def softmax(query, positive, noise, temperature):
    found = []
    for q, own in zip(cases.unit(query), cases.unit(positive)):
        logits = np.concatenate([[q @ own], cases.unit(noise) @ q]) / temperature
        found.append(np.log(np.exp(logits).sum()) - logits[0])
    return found


@pytest.mark.parametrize("transform", ["jigsaw", "rotation", "both"])
@pytest.mark.parametrize("loss, layers", [("nce", 1), ("softmax", 2)])
def test_loss_is_that_of_a_loop_over_images(transform, loss, layers):
    method = made(transform=transform, loss=loss, projection_layers=layers, weight=0.3)
    batch = batch_for(transform)
    changed = of_transform(method, batch)
    image = dense(method.projector, encoded(method, batch["views"]["view_0"]))
    rows, index = np.array(method.contrast.bank.rows), batch["index"].numpy()
    # Of two images the memory is what they are now, of one what its transform is.
    rows[index[:2]] = cases.unit(image[:2])
    rows[index[2]] = cases.unit(changed)[2]
    method.contrast.bank.rows.assign(rows)
    own = rows[index]
    others = rows[bank_contrast.draw(method, batch["index"]).others.numpy()]
    if loss == "nce":
        # Z: of the transform's scores, and shared by both.
        candidates = np.concatenate(
            [own[:, None], np.broadcast_to(others, (5, 7, 5))], axis=1
        )
        scores = np.einsum("bd,bkd->bk", cases.unit(changed), candidates)
        z = _COUNT * np.exp(scores / 0.07).mean()
        expected = [slow(x, own, others, 0.07, _COUNT, z) for x in (changed, image)]
    else:
        expected = [softmax(x, own, others, 0.07) for x in (changed, image)]
    found = method.image_losses(batch, training=False)
    near = dict(rtol=1e-5, atol=1e-5)  # Some losses are next to 0.
    np.testing.assert_allclose(found["transform_loss"], expected[0], **near)
    np.testing.assert_allclose(found["image_loss"], expected[1], **near)
    both = 0.3 * np.array(expected[0]) + 0.7 * np.array(expected[1])
    np.testing.assert_allclose(found["loss"], both, **near)
    z = cases.unit(image)
    hits = (z * own).sum(axis=1) > (z @ others.T).max(axis=1)
    np.testing.assert_array_equal(found["contrastive_accuracy"], hits)
    assert hits[:2].all() and not hits[2]


def test_the_bank_remembers_the_image_alone():
    method = made()
    method.compile("sgd")
    method.optimizer.learning_rate = 0.0
    method.build_optimizer()
    batch = batch_for("jigsaw")
    before = np.array(method.contrast.bank.rows)
    method.train_step(batch)
    after = np.array(method.contrast.bank.rows)
    index = batch["index"].numpy()
    features = method.encoder(batch["views"]["view_0"], training=True)
    z = cases.unit(method.projector(features))
    expected = before.copy()
    expected[index] = cases.unit(0.5 * before[index] + 0.5 * z)
    np.testing.assert_allclose(after, expected, atol=1e-5)
    assert float(method.contrast.normalizer) > 0


def test_encoder_sees_tiles_and_images_apart():
    """Two passes in training: batch norm has the statistics of either by itself."""
    method = made()
    passes = []
    real = method.encoder.call
    method.encoder.call = lambda x, **kwargs: (
        passes.append(x.shape) or real(x, **kwargs)
    )
    method.image_losses(batch_for("jigsaw"), training=True)
    assert [tuple(shape) for shape in passes] == [(20, 8, 8, 3), (5, 16, 16, 3)]


def test_what_it_says_of_itself():
    method = made()
    assert method.num_negatives(16) == 7
    assert method.chance_loss(16) == bank_contrast.chance_loss("nce", 7)
    lines = method.notes(16, _COUNT)
    assert lines[0] == "transform: 4 tiles in any of 24 orders"
    assert any("loss='softmax' needs none" in line for line in lines)
    assert made(transform="rotation").notes(16, _COUNT)[0] == (
        "transform: a turn by 0 to 3 quarters"
    )
    both = made(transform="both").notes(16, _COUNT)[0]
    assert both.startswith("transform: a turn by 0 to 3 quarters, then 4 tiles in any")
    assert methods.PIRL.recipe_for(transform="rotation").name == "pirl_rotation"
    assert methods.PIRL.recipe_for(transform="both").name == "pirl_jigsaw"
    assert methods.PIRL.tiled_views() == (1,)
    assert methods.PIRL.tiled_views(transform="rotation") == ()


def test_clear_errors():
    with pytest.raises(
        ValueError, match="transform='turn' received, expected one of j"
    ):
        made(transform="turn")
    with pytest.raises(ValueError, match="weight=1.5 received"):
        made(weight=1.5)
    with pytest.raises(ValueError, match="max_bank_gib=0.001 received"):
        methods.PIRL.check_memory(
            dict(num_images=10**6, projection_dim=128, max_bank_gib=0.001)
        )
    method = made(num_tiles=9)
    with pytest.raises(ValueError, match="PIRL has num_tiles=9 and expects"):
        method.image_losses(batch_for("jigsaw"), training=False)
    with pytest.raises(ValueError, match="leaves none outside of the batch"):
        made().check_run(_COUNT, None)
