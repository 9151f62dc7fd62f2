import math

import numpy as np
import pytest
import tensorflow as tf

from tfssl import stateless
from tfssl.data import masks


def make(height, width, count=64, first=0, seed=0, **arguments):
    positions = tf.range(first, first + count, dtype=tf.int64)
    return masks.blockwise(
        height, width, positions=positions, seed=seed, **arguments
    ).numpy()


def numbers(position, block, seed):
    """The four that a block of an image is made of."""
    keys = tf.constant([position * 1024 + block], tf.int64)
    return stateless.uniform(seed, keys, 4, purpose="blockwise mask")[0].numpy()


def slow_paper(height, width, position, seed, ratio=0.4, min_patches=16):
    """Algorithm 1, for one image, in plain Python."""
    hidden, block = set(), 0
    wanted = ratio * height * width
    least = min(min_patches, wanted)
    while True:
        u = numbers(position, block, seed)
        area = least + u[0] * (wanted - len(hidden) - least)
        aspect = 0.3 + u[1] * (1 / 0.3 - 0.3)
        high = min(max(round(math.sqrt(area * aspect)), 1), height)
        wide = min(max(round(math.sqrt(area / aspect)), 1), width)
        top, left = int(u[2] * (height - high + 1)), int(u[3] * (width - wide + 1))
        for i in range(top, top + high):
            for j in range(left, left + wide):
                hidden.add((i, j))
        block += 1
        if len(hidden) > wanted:
            return hidden


def slow_released(height, width, position, seed, ratio, min_patches=16):
    """The loops of the authors' code, for one image."""
    hidden, block = set(), 0
    wanted = round(ratio * height * width)
    least = min(min_patches, wanted)
    while len(hidden) < wanted:
        missing = wanted - len(hidden)
        for _ in range(10):
            u = numbers(position, block, seed)
            block += 1
            area = least + u[0] * (missing - least)
            aspect = math.exp(math.log(0.3) + u[1] * 2 * math.log(1 / 0.3))
            high, wide = (
                round(math.sqrt(area * aspect)),
                round(math.sqrt(area / aspect)),
            )
            if not (high < height and wide < width):
                continue
            high, wide = max(high, 1), max(wide, 1)
            top, left = int(u[2] * (height - high + 1)), int(u[3] * (width - wide + 1))
            cells = {
                (i, j) for i in range(top, top + high) for j in range(left, left + wide)
            }
            if 0 < len(cells - hidden) <= missing:
                hidden |= cells
                break
        else:
            break
    return hidden


@pytest.mark.parametrize("sides", [(14, 14), (8, 8), (4, 4), (6, 10)])
@pytest.mark.parametrize("form", masks.FORMS)
def test_a_mask_is_what_plain_loops_make(sides, form):
    found = make(*sides, count=24, first=10**6, seed=5, form=form)
    for row, mask in enumerate(found):
        if form == "paper":
            expected = slow_paper(*sides, 10**6 + row, 5)
        else:
            expected = slow_released(*sides, 10**6 + row, 5, 0.4)
        assert set(zip(*np.nonzero(mask))) == expected, row


def test_the_paper_hides_more_than_its_share_and_the_released_code_no_more():
    hidden = make(14, 14, 2000).sum(axis=(1, 2))
    assert hidden.min() > 0.4 * 196
    assert 0.41 < hidden.mean() / 196 < 0.47
    capped = make(14, 14, 2000, ratio=75 / 196, form="released").sum(axis=(1, 2))
    # What the authors' code gives: a mean of 74.5, 75 of them for two thirds.
    assert capped.max() == 75 and capped.min() > 50
    assert abs(capped.mean() - 74.48) < 0.15
    assert abs((capped == 75).mean() - 0.667) < 0.05


def test_small_grids_keep_something_to_see():
    for side, fewest in ((4, 6), (8, 25)):
        hidden = make(side, side, 500, min_patches=2).sum(axis=(1, 2))
        assert hidden.min() > fewest
        assert hidden.max() < side * side


def test_blocks_lie_everywhere_alike():
    found = make(14, 14, 4000).mean(axis=0)
    for turned in (found[::-1], found[:, ::-1], found.T):
        np.testing.assert_allclose(found, turned, atol=0.06)
    # Rectangles inside of a grid cover its middle more often than its corners.
    assert found[7, 7] > found[0, 0]


def test_hidden_patches_are_neighbours():
    found = make(14, 14, 500)
    both = (found[:, 1:] & found[:, :-1]).sum() / found[:, 1:].sum()
    # Single patches at random would have a neighbour as often as anything is hidden.
    assert both > 0.75


def test_a_mask_goes_by_its_place_in_the_stream():
    every = make(8, 8, 12)
    np.testing.assert_array_equal(every[5:], make(8, 8, 7, first=5))
    assert not (every == make(8, 8, 12, seed=1)).all()
    assert len({mask.tobytes() for mask in every}) == 12


@pytest.mark.parametrize("form", masks.FORMS)
def test_xla_makes_the_same(form):
    @tf.function(jit_compile=True)
    def compiled(positions):
        return masks.blockwise(14, 14, positions=positions, seed=3, form=form)

    found = compiled(tf.range(40, dtype=tf.int64))
    np.testing.assert_array_equal(found, make(14, 14, 40, seed=3, form=form))


def test_bad_arguments_are_refused_in_one_sentence():
    with pytest.raises(ValueError, match=r"ratio=1.5 received, expected a number"):
        make(14, 14, ratio=1.5)
    with pytest.raises(ValueError, match="of which it hides none or all"):
        make(2, 2, ratio=0.1)
    with pytest.raises(ValueError, match="min_patches=0 received"):
        make(14, 14, min_patches=0)
    with pytest.raises(ValueError, match="form='code' received"):
        make(14, 14, form="code")
