"""No pass on one device takes the global batch of several."""

import pytest

from tests.tasks import clustering_test, finetune_test, train_segmenter_test
from tests.tasks import pretrain_test as small
from tfssl import data
from tfssl.data import pipeline
from tfssl.evaluation import segmentation
from tfssl.training import strategy as strategies


@pytest.fixture
def batches(monkeypatch):
    """What passes take at once, but for images that are taken all together."""
    monkeypatch.setattr(strategies, "images_at_once", lambda *_: 3)
    found = []

    def recording(real):
        def make(*args, batch_size, indices=None, **kwargs):
            if indices is None or len(indices) != batch_size:
                found.append(batch_size)
            given = kwargs if indices is None else kwargs | {"indices": indices}
            return real(*args, batch_size=batch_size, **given)

        return make

    monkeypatch.setattr(data, "labeled", recording(data.labeled))
    return found, recording


def test_of_monitors_the_online_probe_and_clustering(tmp_path, batches, monkeypatch):
    found, recording = batches
    monkeypatch.setattr(pipeline, "multiview", recording(pipeline.multiview))
    watching = {"validation_data": small.images(seed=1), "knn_epochs": 1}
    watching |= {"online_probe_epochs": 1, "epochs": 1}
    run = clustering_test.run(tmp_path, "deepcluster", **watching)
    assert {"knn_accuracy", "probe_accuracy"} <= set(run.history[0])
    # Clustering; the bank and the queries; what the probe learns from and is told by.
    assert found == [3] * 5


def test_of_classifiers(tmp_path, batches):
    finetune_test.tuned(tmp_path, epochs=1)
    assert batches[0] == [3, 3]  # In training and after it.


@pytest.mark.parametrize("bound", [pytest.param(3, marks=pytest.mark.slow), 2])
def test_of_segmenters_which_have_a_bound_of_their_own(
    bound, tmp_path, batches, monkeypatch
):
    monkeypatch.setattr(segmentation, "NUMBERS", bound * 8**2 * 3)
    images = train_segmenter_test.images(seed=1)
    train_segmenter_test.trained(tmp_path, validation_data=images, epochs=1)
    assert batches[0] == [bound, bound]
