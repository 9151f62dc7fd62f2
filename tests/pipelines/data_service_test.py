"""The service as a user starts and stops it."""

import signal
import socket

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


def test_a_port_in_use_is_refused_and_free_after_a_kill():
    address, started = services.serving()
    port = address.rpartition(":")[2]
    for name in ("port", "worker_port"):
        end = services.start(0, f"--{name}={port}").wait()
        assert end.code == 2 and not end.stdout
        assert f"{name}={port}" in end.stderr and "already in use" in end.stderr
    with socket.create_connection(("localhost", int(port))):
        started.send_signal(signal.SIGKILL)
        started.wait()
        again = services.start(port)
        services.wait_until_serving(again, port)
    again.send_signal(signal.SIGKILL)
    again.wait()
