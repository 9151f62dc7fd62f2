import pytest
import tensorflow as tf

from tests.fixtures import batches as made
from tfssl.data import each_once, pipeline, preprocessing, sources


def test_a_local_stream_is_not_autotuned():
    # It costs a twentieth of the time; calls in parallel are given instead.
    stream = pipeline.multiview(made.array(), made.recipe(), batch_size=made.BATCH)
    assert not stream.options().autotune.enabled
    one = preprocessing.Preprocessing(size=8, channels=3)
    stream = each_once.labeled(made.array(), one)
    assert not stream.options().autotune.enabled


class Asking(sources.ArraySource):
    """Images whose decoding asks a tensor, which only AutoGraph could make work."""

    encoded, holds_files = True, False

    def decode(self, raw, side=None):
        if tf.reduce_max(raw) > 0:
            return raw
        return raw + 1

    def decode_window(self, raw, boxes_of, sizes=None):
        return self.decode(raw), boxes_of(*self.image_size)


@pytest.mark.parametrize("made_by", ["multiview", "labeled", "kept"])
def test_functions_of_datasets_are_not_rewritten(made_by):
    source = Asking(made.images_of())
    path = preprocessing.Preprocessing(size=8)
    with pytest.raises(tf.errors.OperatorNotAllowedInGraphError):
        if made_by == "multiview":
            pipeline.multiview(source, made.recipe(80), batch_size=4)
        elif made_by == "labeled":
            pipeline.labeled(source, path)
        else:
            sources.keep(source, 1 << 30).ready()
