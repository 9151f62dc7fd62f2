import tensorflow as tf

from tfssl.data import views
from tfssl.data.views import alike


def test_views_that_are_alike_are_traced_once_and_each_is_of_its_own_tensors():
    large, small = views.View(size=16), views.View(size=8)
    traced = []

    def run(view, x, others):
        traced.append(view)
        return view.size * x + others["more"][0]

    def all_of(recipe):
        run_once = alike.traced_once(run, recipe)
        others = [{"more": [tf.constant(n)]} for n in range(len(recipe))]
        return [run_once(v, tf.constant(1), more) for v, more in zip(recipe, others)]

    recipe = [large, small, views.View(size=8), small]
    in_graph = tf.function(lambda: all_of(recipe), autograph=False)
    assert [int(x) for x in in_graph()] == [16, 9, 10, 11]
    assert sorted(view.size for view in traced) == [8, 16]
    # Nothing is traced outside of a graph.
    assert [int(x) for x in all_of(recipe)] == [16, 9, 10, 11]
    assert len(traced) == 2 + 4
