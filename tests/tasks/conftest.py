"""Trainings of the tests draw no sheet of views, a quarter of a small run's time."""

import types

import pytest
import tensorflow as tf

from tfssl import files
from tfssl.tasks import accept


@pytest.fixture(autouse=True)
def no_view_sheet(request, monkeypatch):
    """`views.png` is one pixel, but for tests that are marked `view_sheet`."""

    def sheet(source, recipe, path, **kwargs):
        files.write_bytes(path, tf.io.encode_png(tf.zeros([1, 1, 3], tf.uint8)).numpy())

    if not request.node.get_closest_marker("view_sheet"):
        stub = types.SimpleNamespace(sheet=sheet)
        monkeypatch.setattr(accept, "show_views", stub)
