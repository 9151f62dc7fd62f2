import numpy as np
import pytest
import tensorflow as tf

from tfssl import stateless


def slow_mixed(x):
    """SplitMix64, Steele et al., 2014, in Python's whole numbers."""
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31


def test_mixed_is_split_mix():
    # The first outputs of the authors' generator, started at 0.
    assert slow_mixed(0) == 0xE220A8397B1DCDAF
    given = [0, 1, 2**63, 2**64 - 1]
    found = stateless.mixed(tf.constant(given, tf.uint64)).numpy()
    assert found.tolist() == [slow_mixed(x) for x in given]


def test_uniform_numbers_are_uniform_and_independent():
    found = stateless.uniform(3, tf.range(20000, dtype=tf.int64), 5, purpose="a")
    assert found.dtype == tf.float32 and found.shape == (20000, 5)
    found = found.numpy()
    assert 0 < found.min() and found.max() < 1
    counts = np.stack([np.histogram(x, 20, (0, 1))[0] for x in found.T])
    assert (np.square(counts - 1000) / 1000).sum(1).max() < 50  # Of 19 degrees.
    both = np.concatenate([found, np.roll(found, 1, 0)], 1)
    correlation = np.corrcoef(both.T) - np.eye(10)
    assert np.abs(correlation).max() < 0.04  # Standard deviation 0.007.


def test_seed_purpose_and_key_change_the_numbers():
    keys = tf.constant([4, 9], tf.int64)
    found = stateless.uniform(3, keys, 2, purpose="a").numpy()
    for seed, purpose in ((4, "a"), (3, "b"), (-3, "a")):
        other = stateless.uniform(seed, keys, 2, purpose=purpose).numpy()
        assert not np.intersect1d(found, other).size
    again = stateless.uniform(3, keys[1:], 1, purpose="a").numpy()
    np.testing.assert_array_equal(again, found[1:, :1])


@pytest.mark.parametrize("jit", [False, True])
def test_the_same_to_the_bit_in_a_graph_and_under_xla(jit):
    keys = tf.range(100, dtype=tf.int64)
    draw = lambda keys: stateless.uniform(3, keys, 3, purpose="a")  # noqa: E731
    compiled = tf.function(draw, jit_compile=jit)
    np.testing.assert_array_equal(compiled(keys), draw(keys))


def test_whole_numbers_below_a_bound_are_as_likely_as_each_other():
    keys = tf.range(3000, dtype=tf.int64)
    found = stateless.below(7, 3, keys, 7, purpose="a")
    assert found.dtype == tf.int64 and found.shape == (3000, 7)
    counts = np.bincount(found.numpy().ravel())
    assert len(counts) == 7  # None below 0, and none of 7 or more.
    assert (np.square(counts - 3000) / 3000).sum() < 22  # Of 6 degrees.
    # More numbers than a float32 tells apart.
    large = stateless.below(2**31, 3, keys, 2, purpose="a").numpy()
    assert len(np.unique(large)) > 5990 and (large % 2).mean() == pytest.approx(
        0.5, abs=0.03
    )
    none = stateless.below(1, 3, keys, 2, purpose="a").numpy()
    assert not none.any()
    compiled = tf.function(
        lambda bound: stateless.below(bound, 3, keys, 7, purpose="a"), jit_compile=True
    )
    np.testing.assert_array_equal(compiled(tf.constant(7, tf.int64)), found)
