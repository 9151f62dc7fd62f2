import types

import pytest

from tests.tasks.pretrain_test import TINY, images
from tfssl import data
from tfssl.methods import DeepCluster
from tfssl.tasks import epoch_images, trainer


def test_an_error_on_another_worker_is_raised_here_too():
    workers = types.SimpleNamespace(count=1, index=0, any=lambda *flags: (True,))
    plan = trainer.Plan(
        data.open_source(images()),
        data.recipes.SIMCLR_DIGITS.scaled(8),
        epochs=1,
        batch_size=8,
    )
    method = DeepCluster(TINY["encoder"]((8, 8, 1)), num_images=40, num_clusters=6)
    between = epoch_images.EpochImages(method.encoder, plan, workers, first_views=None)
    with pytest.raises(ValueError, match="Another worker could not make the features"):
        method.before_epoch(0, between)
