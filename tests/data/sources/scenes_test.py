import numpy as np
import pytest

from tfssl import models
from tfssl.data import sources
from tfssl.data.sources import scenes


@pytest.fixture(scope="module")
def rendered():
    return scenes.render(60, seed=3, size=24)


def _rays(size):
    steps = (np.arange(size) + 0.5) / size - 0.5
    return np.stack([*np.meshgrid(steps, steps), np.ones((size, size))], -1)


def test_every_point_lies_on_what_its_label_says(rendered):
    """Depth, normals and labels against what the bodies are, in space."""
    points = rendered.depth[..., np.newaxis] * _rays(24)
    normals = rendered.normals
    np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), 1, atol=1e-9)
    assert (np.einsum("nhwc,hwc->nhw", normals, _rays(24)) <= 1e-9).all()
    floor, wall = rendered.labels == 0, rendered.labels == 1
    np.testing.assert_allclose(points[floor][:, 1], 1.0)
    np.testing.assert_array_equal(normals[floor], np.tile([0, -1, 0], (floor.sum(), 1)))
    np.testing.assert_allclose(points[wall][:, 2], scenes.FAR)
    # Nothing is below the floor or behind the wall.
    assert points[..., 1].max() <= 1 + 1e-9 and points[..., 2].max() <= scenes.FAR
    # Turned about any vertical axis, a cylinder's side and its lid: y is 0 or -1.
    up = normals[rendered.labels == 4][:, 1]
    assert set(np.round(np.unique(up), 9)) == {-1.0, 0.0}
    # A box has three faces that can be seen.
    for image, labels in zip(normals, rendered.labels):
        assert np.abs(image[labels == 3][:, 1]).round(9).tolist() == [
            round(v) for v in np.abs(image[labels == 3][:, 1])
        ]


def test_points_of_a_sphere_are_at_one_distance_from_its_middle():
    """The normal leads back to the middle: of one body the same from every pixel."""
    found = scenes.render(80, seed=0, size=24)
    points = found.depth[..., np.newaxis] * _rays(24)
    several = 0
    for i in np.flatnonzero(found.kinds == 0):
        seen = found.labels[i] == 2
        # The middle lies as far above the floor as the radius is long.
        p, n = points[i][seen], found.normals[i][seen]
        radius = (1 - p[:, 1]) / (1 - n[:, 1])
        middle = p - radius[:, np.newaxis] * n
        of_bodies = np.unique(np.round(middle, 6), axis=0)
        assert len(of_bodies) <= 3  # A large one, and perhaps both of the small ones.
        several += len(seen) > len(of_bodies)
    assert several > 10


def test_normals_of_the_depth_are_the_rendered_ones_inside_of_a_surface(rendered):
    depth = rendered.depth[..., np.newaxis].astype(np.float32)
    found = models.depth_to_normals(depth).numpy()
    labels = rendered.labels
    inside = np.zeros(labels.shape, bool)
    middle = labels[:, 1:-1, 1:-1]
    inside[:, 1:-1, 1:-1] = (
        (labels[:, :-2, 1:-1] == middle)
        & (labels[:, 2:, 1:-1] == middle)
        & (labels[:, 1:-1, :-2] == middle)
        & (labels[:, 1:-1, 2:] == middle)
    )
    cosine = (found * rendered.normals).sum(-1)[inside]
    assert np.median(cosine) > 0.9999 and np.mean(cosine > 0.98) > 0.97


def test_the_source_has_all_of_it_as_channels(monkeypatch, pixels):
    monkeypatch.setattr(scenes, "_COUNTS", {"train": 40, "test": 12})
    train = sources.open_source("scenes")
    test = sources.open_source("scenes", split="test")
    assert (train.num_images, test.num_images) == (40, 12)
    assert train.channels == 13 and train.dtype == "uint16"
    assert train.image_size == (32, 32) and train.class_names == scenes.KINDS
    found = scenes.render(40, seed=0)
    np.testing.assert_array_equal(train.labels, found.kinds)
    assert len(set(found.kinds)) == 4
    image = pixels(train, 7) / 65535
    at = {name: image[..., list(group)] for name, group in scenes.CHANNELS.items()}
    assert sum(map(len, scenes.CHANNELS.values())) == 13
    np.testing.assert_allclose(at["rgb"], found.rgb[7], atol=1e-5)
    depth = at["depth"][..., 0] * scenes.FAR
    np.testing.assert_allclose(depth, found.depth[7], atol=1e-4)
    np.testing.assert_allclose(at["normals"] * 2 - 1, found.normals[7], atol=1e-4)
    np.testing.assert_array_equal(at["labels"].argmax(-1), found.labels[7])
    np.testing.assert_array_equal(at["labels"].sum(-1), 1)
    assert train.maps == {"labels": (7, ("floor", "wall", *scenes.KINDS))}
    again = sources.open_source("scenes")
    assert train.fingerprint() == again.fingerprint() != test.fingerprint()


def test_what_scenes_have_not_is_refused():
    with pytest.raises(ValueError, match="split='all' received, expected one of train"):
        sources.open_source("scenes", split="all")
    with pytest.raises(
        ValueError, match="root='x' received for scenes, but it is for m"
    ):
        sources.open_source("scenes", root="x")
