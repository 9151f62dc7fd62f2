"""A finished run that several files of tests look at."""

import pytest

from tests.tasks import pretrain_test as small
from tfssl.tasks import pretrain


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A finished run on two classes that the bright half tells apart.

    Tests evaluate it again and again; what else they change is in copies.
    """
    out = tmp_path_factory.mktemp("run")
    pretrain.pretrain(small.images(), str(out), **small.TINY | {"epochs": 2})
    return out
