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
    made = keras.optimizers.SGD(0.1)
    optimization = groups.Optimization(optimizer=made)
    optimization.make(8, 1, 1).build([keras.Variable(1.0)])
    assert optimization.make(8, 1, 1) is not made and not made.built
    made.build([keras.Variable(1.0)])
    with pytest.raises(ValueError, match="optimizer=SGD received, which belongs"):
        optimization.make(8, 1, 1)
    wrapper = keras.optimizers.LossScaleOptimizer(made)
    optimization = groups.Optimization(optimizer=wrapper)
    with pytest.raises(ValueError, match="optimizer=LossScaleOptimizer received, whi"):
        optimization.make(8, 1, 1)
    assert optimization.told(8) == f"{made.name}, with its own learning rate"


def test_a_warm_up_that_is_not_over_in_time_is_told_by_its_own_name():
    words = "warmup_epochs=10.0 received, expected from 0 to less than epochs=10"
    with pytest.raises(ValueError, match=words):
        groups.Optimization().make(8, 10, 4)
    groups.Optimization().make(8, 11, 4)


def test_the_weight_decay_ends_where_it_is_told_to():
    optimization = groups.Optimization(
        optimizer="adamw", weight_decay=0.04, weight_decay_final=0.4, warmup_epochs=1
    )
    optimizer = optimization.make(8, 5, 4)
    optimizer.build([keras.Variable(1.0)])
    found = []
    for step in (0, 10, 20):
        optimizer.iterations.assign(step)
        found.append(float(optimizer.weight_decay))
    assert found == pytest.approx([0.04, 0.22, 0.4])
    assert optimization.told(8).endswith("; weight decay 0.04 to 0.4")
    plain = groups.Optimization(optimizer="adamw", weight_decay=0.04)
    assert plain.make(8, 20, 4).weight_decay == 0.04
    assert "weight decay" not in plain.told(8)
