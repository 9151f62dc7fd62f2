"""The service as a user starts and stops it."""

import signal

import numpy as np

from tests.fixtures import services
from tfssl import data
from tfssl.data.views import recipes


def test_ctrl_c_ends_a_service_that_is_read():
    address, started = services.serving()
    pixels = np.random.default_rng(0).integers(0, 255, (12, 10, 10, 3))
    batches = data.multiview(
        data.open_source(pixels.astype(np.uint8)),
        recipes.SIMCLR.scaled(8),
        batch_size=6,
        data_service=address,
    )
    batches = iter(batches)
    assert next(batches)["views"]["view_0"].shape == (6, 8, 8, 3)
    started.send_signal(signal.SIGINT)
    end = started.wait()
    assert end.code == 130, end.stderr
    assert end.stdout == f"Serving: --data_service={address}\n"
    assert end.stderr.endswith("Interrupted.\n")
