import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl import data
from tfssl.data import bad_files
from tfssl.evaluation import rmac


def test_regions_by_hand():
    # Shorter side 4, longer 6. Two squares of 4 overlap by 1 - 2/4 = 50 %, three by
    # 75 %: m = 2. Scale 2: side 8 // 3 = 2, 2 x 3 of them.
    expected = [(0, 0, 4), (0, 2, 4)]
    expected += [(top, left, 2) for top in (0, 2) for left in (0, 2, 4)]
    np.testing.assert_array_equal(rmac.regions(4, 6, 2), expected)
    turned = [(left, top, side) for top, left, side in expected]
    assert {tuple(r) for r in rmac.regions(6, 4, 2)} == set(turned)
    # A square map has 1 + 4 + 9 regions; side 2 * 6 / (l + 1).
    square = rmac.regions(6, 6)
    assert [tuple(r) for r in square[:5]] == [
        (0, 0, 6), (0, 0, 4), (0, 2, 4), (2, 0, 4), (2, 2, 4),
    ]  # fmt: skip
    assert len(square) == 14 and set(square[5:, 2]) == {3}


@pytest.mark.parametrize("height, width", [(32, 24), (48, 64), (7, 31), (1, 5), (9, 9)])
def test_regions_follow_the_papers_rule(height, width):
    found = rmac.regions(height, width)
    assert (found >= 0).all()
    assert (found[:, 0] + found[:, 2] <= height).all()
    assert (found[:, 1] + found[:, 2] <= width).all()
    short, long = min(height, width), max(height, width)
    along = 1 if width > height else 0
    m = 1
    if long > short:
        overlaps = {m: (short - (long - short) / (m - 1)) / short for m in range(2, 8)}
        m = min(overlaps, key=lambda m: abs(overlaps[m] - 0.4))
    for level in (1, 2, 3):
        side = int(np.floor(2 * short / (level + 1)))
        some = found[found[:, 2] == side] if side else found[:0]
        if not side:
            continue
        assert len(some) == level * (level + m - 1)
        places = np.unique(some[:, along])
        if level + m > 2:  # From one end to the other, steps alike up to rounding.
            assert (places[0], places[-1]) == (0, long - side)
            assert np.ptp(np.diff(places)) <= 1


def slow_vectors(feature_map, levels):
    """Every region by loops over its pixels, in float64."""
    vectors = []
    for top, left, side in rmac.regions(*feature_map.shape[:2], levels):
        best = np.full(feature_map.shape[2], -np.inf)
        for i in range(top, top + side):
            for j in range(left, left + side):
                best = np.maximum(best, feature_map[i, j].astype(np.float64))
        vectors.append(best / np.sqrt((best**2).sum()))
    return np.array(vectors)


def slow_whitening(rows, components):
    """From the singular vectors of the centred rows."""
    mean = rows.mean(axis=0)
    _, singular, axes = np.linalg.svd(rows - mean)
    variances = np.zeros(rows.shape[1])
    variances[: len(singular)] = singular**2
    variances = np.maximum(variances, 1e-5 * variances.max())[:components]
    return lambda x: (x - mean) @ axes[:components].T / np.sqrt(variances)


@pytest.mark.parametrize("components", [None, 3])
def test_equals_the_plain_form(components):
    rng = np.random.default_rng(0)
    maps = [rng.gamma(1.0, size=(4 + i, 7, 6)).astype(np.float32) for i in range(5)]
    for m in maps:
        m[..., 5] = 0.5 * m[..., 0]  # Some variances are small …
    maps[0][..., 4] = 0  # … and a map has a channel without any response.
    vectors = [slow_vectors(m, 3) for m in maps]
    for m, expected in zip(maps, vectors):
        np.testing.assert_allclose(rmac.region_vectors(m), expected, atol=1e-6)
        total = expected.sum(axis=0)
        np.testing.assert_allclose(
            rmac.describe(m), total / np.linalg.norm(total), atol=1e-6
        )
    whitening = rmac.learn_whitening(iter(maps), components=components)
    whiten = slow_whitening(np.concatenate(vectors), components or 6)
    found, plain = [], []
    for m, rows in zip(maps, vectors):
        rows = whiten(rows)
        total = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).sum(axis=0)
        plain.append(total / np.linalg.norm(total))
        found.append(rmac.describe(m, 3, whitening))
    assert found[0].shape == (components or 6,)
    # The axes' signs are free: similarities are what counts.
    np.testing.assert_allclose(
        np.array(found) @ np.array(found).T, np.array(plain) @ np.array(plain).T,
        atol=2e-4,
    )  # fmt: skip


def test_whitening_floors_channels_that_never_fire():
    rng = np.random.default_rng(0)
    maps = [np.pad(rng.random((5, 5, 3)), ((0, 0), (0, 0), (0, 2))) for _ in range(4)]
    whitening = rmac.learn_whitening(maps)
    largest = np.abs(whitening.projection).max()
    # 1 / sqrt(1e-5 of the largest variance) at most.
    limit = 1 / np.sqrt(1e-5 * whitening.eigenvalues[0])
    assert np.isfinite(largest) and largest <= 1.001 * limit
    with pytest.raises(ValueError, match="look alike"):
        rmac.learn_whitening([np.ones((3, 3, 2))] * 3)
    with pytest.raises(ValueError, match="one or more images"):
        rmac.learn_whitening([])


def reader(longer_side=8, **preprocessing):
    """A "network" that keeps the pixels, one number of the map each."""
    images = keras.Input((None, None, 3))
    model = keras.Model(images, keras.layers.Rescaling(1.0)(images))
    made_for = data.Preprocessing(size=4, **preprocessing)
    return rmac.MapReader(model, made_for, longer_side=longer_side)


def red_and_blue(height=4, width=16):
    """Red left, blue right, as a PNG file."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = 255
    pixels[:, width // 2 :, 2] = 255
    return pixels, tf.io.encode_png(pixels).numpy()


def test_maps_keep_the_aspect():
    _, encoded = red_and_blue()
    assert reader(8).map_of(encoded).shape == (2, 8, 3)
    assert reader(32).map_of(encoded).shape == (8, 32, 3)
    found = reader(16, mean=0.5, std=0.25).map_of(encoded)
    np.testing.assert_allclose(found[0, 0], [2, -2, -2])  # Red, normalized.
    np.testing.assert_allclose(found[-1, -1], [-2, -2, 2])


def test_a_box_is_cut_after_resizing():
    pixels, encoded = red_and_blue()
    # At half the size: columns 11.9 / 2 -> 6 to 8, rows 0 to 1 of 2.
    found = reader(8).map_of(encoded, (11.9, 0.0, 16.0, 2.0))
    np.testing.assert_array_equal(found, np.tile([0.0, 0.0, 1.0], (1, 2, 1)))
    # What lies outside of the image is not there.
    found = reader(16).map_of(encoded, (-5.0, -5.0, 3.0, 99.0))
    np.testing.assert_array_equal(found, pixels[:, :3] / 255)
    with pytest.raises(ValueError, match="holds no pixel of the image"):
        reader(16).map_of(encoded, (16.0, 0.0, 20.0, 4.0))
    with pytest.raises(ValueError, match="longer_side=0 received"):
        reader(0)


def test_shrinking_averages():
    """Stripes of one pixel become grey, not black or white."""
    stripes = np.zeros((16, 16, 3), np.uint8)
    stripes[:, ::2] = 255
    found = reader(4).map_of(tf.io.encode_png(stripes).numpy())
    np.testing.assert_allclose(found, 0.5, atol=0.05)


def test_unreadable_images_are_listed(tmp_path):
    for i in range(5):
        _, encoded = red_and_blue(width=8 + 4 * i)
        (tmp_path / f"{i}.png").write_bytes(b"broken" if i == 2 else encoded)
    source = data.open_source(str(tmp_path))
    bad = bad_files.BadFiles(0.2)
    found = {i: m.shape for i, m in reader(8).maps(source, bad)}
    # Heights 8 * 4 / width: 4, 2.67, 1.6, 1.33.
    assert found == {0: (4, 8, 3), 1: (3, 8, 3), 3: (2, 8, 3), 4: (1, 8, 3)}
    assert [f.endswith("2.png") for f in bad.files] == [True]
    with pytest.raises(ValueError, match="1 of 5 images .* could not be read"):
        list(reader(8).maps(source, bad_files.BadFiles(0.1)))
