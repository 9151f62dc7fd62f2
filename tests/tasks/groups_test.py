"""Groups of arguments are checked before anything begins."""

import keras
import pytest

import tfssl
from tfssl.tasks import groups


def test_an_address_that_is_none_is_refused_at_the_start(tmp_path):
    with pytest.raises(ValueError, match="'local:1' received, expected grpc://host:p"):
        tfssl.pretrain("digits", tmp_path / "run", data_service="local:1")
    assert not (tmp_path / "run").exists()
    assert groups.Devices(data_service="grpc://a:1,grpc://b:1").data_service


def test_an_optimizer_of_another_training_is_refused():
    optimization = groups.Optimization(optimizer=keras.optimizers.SGD(0.1))
    made = optimization.make(8, 1, 1)
    made.build([keras.Variable(1.0)])
    with pytest.raises(ValueError, match="optimizer=SGD received, which belongs"):
        optimization.make(8, 1, 1)
