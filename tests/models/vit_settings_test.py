"""Vision transformers whose settings change while their weights stay."""

import keras
import numpy as np
import pytest

from tests.models import vit_test
from tfssl import models
from tfssl.models import headed


def _trained(**changes):
    """One whose tables of relative positions are far from zero, as after a training."""
    return vit_test._tiny(**dict(relative="shared", layer_scale=0.5) | changes)


def _tables(network):
    return [v for v in network.variables if v.path.endswith("offsets")]


@pytest.mark.parametrize("class_token", [True, False])
def test_each_block_gets_its_own_copy_of_the_shared_table(class_token):
    network = _trained(class_token=class_token, pooling="mean")
    before = network.get_weights()
    images = vit_test._images()
    made = models.with_settings(network, relative="blocks")
    assert type(made) is models.ViT and made.settings["relative"] == "blocks"
    np.testing.assert_array_equal(made(images), network(images))
    # At another size, too.
    np.testing.assert_array_equal(
        made(vit_test._images(20)), network(vit_test._images(20))
    )
    assert len(_tables(made)) == 2 * len(_tables(network))
    first, second = (block.attention.relative for block in made.block_layers)
    assert first.table is not second.table
    first.table.assign(np.array(first.table) * 2)
    assert np.abs(np.array(made(images)) - np.array(network(images))).max() > 1e-4
    for old, new in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_other_settings_keep_the_weights():
    network = _trained()
    made = models.with_settings(network, drop_path=0.3, pooling="mean")
    for old, new in zip(network.get_weights(), made.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert made.settings["drop_path"] == 0.3 and made.settings["relative"] == "shared"
    asked = network.get_config() | {"drop_path": 0.3, "pooling": "mean"}
    assert made.get_config() == asked
    again = models.with_settings(
        models.with_settings(network, relative="blocks"), relative="blocks"
    )
    images = vit_test._images()
    np.testing.assert_array_equal(again(images), network(images))


def test_layers_of_a_head_go_along():
    network = _trained()
    head = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    both = headed.Headed(network, head)
    made = models.with_settings(both, relative="blocks")
    images = vit_test._images()
    np.testing.assert_array_equal(made(images), both(images))
    assert made.encoder.settings["relative"] == "blocks"


@pytest.mark.parametrize(
    "network, changes, message",
    [
        (_trained, dict(dim=16), r"dim=16 received for an encoder that is trained"),
        (
            _trained,
            dict(relative="none"),
            "relative='none' .*'shared', which.*'blocks'",
        ),
        (lambda: _trained(relative="none"), dict(relative="blocks"), "expected 'none'"),
        (_trained, dict(drop_path=1.0), "drop_path=1.0"),
        (
            lambda: models.encoder("resnet18", input_shape=(8, 8, 3), width=0.0625),
            dict(relative="blocks"),
            "relative='blocks' received for an encoder .*'resnet18'.*can change",
        ),
    ],
)
def test_what_cannot_change_is_refused(network, changes, message):
    with pytest.raises(ValueError, match=message):
        models.with_settings(network(), **changes)
