"""A finished run that several files of tests look at, and trainings without a sheet."""

import types

import pytest
import tensorflow as tf

from tests.tasks import pretrain_test as small
from tfssl import files
from tfssl.tasks import accept, pretrain


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A finished run on two classes that the bright half tells apart.

    Tests evaluate it again and again; what else they change is in copies.
    """
    out = tmp_path_factory.mktemp("run")
    pretrain.pretrain(small.images(), str(out), **small.TINY | {"epochs": 2})
    return out


@pytest.fixture(autouse=True)
def no_view_sheet(request, monkeypatch):
    """`views.png` is one pixel, but for tests that are marked `view_sheet`.

    To draw it takes a quarter of a small run's time.
    """

    def sheet(source, recipe, path, **kwargs):
        files.write_bytes(path, tf.io.encode_png(tf.zeros([1, 1, 3], tf.uint8)).numpy())

    if not request.node.get_closest_marker("view_sheet"):
        stub = types.SimpleNamespace(sheet=sheet)
        monkeypatch.setattr(accept, "show_views", stub)
