import keras
import pytest

from tests.fixtures import networks
from tests.methods import cases
from tfssl import methods
from tfssl.methods import loss_scale

_SCALE = keras.optimizers.LossScaleOptimizer


@pytest.mark.parametrize(
    "policy, wrapped", [("mixed_float16", True), ("mixed_bfloat16", False)]
)
def test_an_encoder_in_float16_gets_a_scale_under_any_policy(policy, wrapped):
    method = methods.SimCLR(networks.ours(dtype=policy), projection_dim=4)
    assert method.dtype_policy.name == "float32"
    method.compile(keras.optimizers.SGD(0.1))
    assert isinstance(method.optimizer, _SCALE) == wrapped
    method.compile("sgd")
    assert isinstance(method.optimizer, _SCALE) == wrapped


def test_a_scale_of_the_users_stays_and_a_teacher_asks_for_none():
    given = _SCALE(keras.optimizers.SGD(0.1))
    method = methods.SimCLR(networks.ours(dtype="mixed_float16"), projection_dim=4)
    assert loss_scale.scaled(given, method) is given
    teacher = networks.ours(dtype="mixed_float16")
    teacher.trainable = False
    images = keras.Input((8, 8, 3))
    both = keras.layers.Concatenate()(
        [networks.ours(name="student")(images), teacher(images)]
    )
    made = loss_scale.scaled("sgd", keras.Model(images, both))
    assert not isinstance(made, _SCALE)
    assert cases.make("simclr").optimizer.name != "loss_scale_optimizer"
