"""Draws; `papers_test.py` has every recipe's distributions."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tfssl.data import views
from tfssl.data.views import recipes

_MANY = 4000


def drawn(recipe, batch=_MANY, seed=1, step=0):
    numbers = views.sample(recipe, batch=batch, channels=3, seed=seed, step=step)
    found = views.split(numbers, recipe)
    return {name: value.numpy() for name, value in found.items()}


def is_uniform(values, low, high):
    return stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-3


def test_distributions_of_geometry():
    view = views.View(rotation=0.3, shear=0.1, translation=0.2, random_order=False)
    n = drawn([view])
    assert is_uniform(n["rotation"][:, 0], -0.3, 0.3)
    assert is_uniform(n["shear"][:, 0], -0.1, 0.1)
    assert is_uniform(n["translation"][:, 0, 1], -0.2, 0.2)
    assert (np.argsort(n["order"][:, 0], -1) == np.arange(4)).all()


def test_draws_depend_on_seed_and_step_only():
    def draw(**changes):
        settings = {"batch": 8, "channels": 3, "seed": 1, "step": 2} | changes
        return views.sample(recipes.SIMCLR, **settings)

    first = draw().numpy()
    np.testing.assert_array_equal(first, draw(channels=1))
    tensors = dict(seed=tf.constant(1, tf.int64), step=tf.constant(2, tf.int64))
    np.testing.assert_array_equal(first, draw(**tensors))
    np.testing.assert_array_equal(first, tf.function(lambda: draw(**tensors))())
    for other in (dict(seed=2), dict(step=3), dict(seed=2, step=1)):
        assert (first[..., :20] != draw(**other)[..., :20]).numpy().mean() > 0.99
    tf.random.set_seed(7)
    np.testing.assert_array_equal(first, draw())


def test_recipes_without_views_are_refused():
    with pytest.raises(ValueError, match="no views; give at least one View"):
        views.sample([], batch=1, channels=3, seed=0, step=0)
    with pytest.raises(ValueError, match="must be a tfssl.data.View"):
        views.sample([3], batch=1, channels=3, seed=0, step=0)
