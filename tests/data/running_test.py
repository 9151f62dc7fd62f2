from tests.fixtures import batches as made
from tfssl.data import each_once, pipeline, preprocessing


def test_a_local_stream_is_not_autotuned():
    # It costs a twentieth of the time; calls in parallel are given instead.
    stream = pipeline.multiview(made.array(), made.recipe(), batch_size=made.BATCH)
    assert not stream.options().autotune.enabled
    one = preprocessing.Preprocessing(size=8, channels=3)
    stream = each_once.labeled(made.array(), one)
    assert not stream.options().autotune.enabled
