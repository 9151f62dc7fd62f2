import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl import internals, models
from tfssl.evaluation import stages
from tfssl.models import copying, feature_maps, freezing, input_range, remat
from tfssl.tasks import resolve

_SHAPE = (16, 16, 3)
_SMALL = dict(width=1 / 16, stem="cifar")


def build(input_shape=_SHAPE, **arguments):
    """Branches with moving statistics that are not those of the start."""
    keras.utils.set_random_seed(0)
    network = models.encoder("branches", input_shape=input_shape, **_SMALL | arguments)
    rng = np.random.default_rng(1)
    for variable in network.variables:
        variable.assign(variable + 0.1 * rng.uniform(size=variable.shape))
    return network


def pixels(count=3, channels=3, side=16):
    shape = (count, side, side, channels)
    return np.random.default_rng(0).uniform(size=shape).astype(np.float32)


def test_features_are_those_of_each_views_channels_behind_lab():
    network, images = build(), pixels()
    lab = models.Lab()(images)
    views = {"L": lab[..., :1], "ab": lab[..., 1:]}
    for view, channels in network.split(images).items():
        np.testing.assert_allclose(channels, views[view], atol=1e-6)
    each = [network.branches[view](views[view]) for view in ("L", "ab")]
    found = network(images)
    np.testing.assert_allclose(found, np.concatenate(each, axis=1), rtol=1e-4)
    assert network.output_shape == (None, 64)
    # The graph, of which probes and files are made, gives what a call gives.
    graph = keras.Model(network.inputs[0], network.outputs[0])
    np.testing.assert_array_equal(graph(images), found)


def test_any_groups_of_any_channels():
    groups = {"rgb": (0, 1, 2), "depth": 3, "swapped": (5, 4)}
    network = build((16, 16, 6), color="rgb", views=groups)
    images = pixels(channels=6)
    views = network.split(images)
    assert list(views) == ["rgb", "depth", "swapped"]
    np.testing.assert_array_equal(views["depth"], images[..., 3:4])
    np.testing.assert_array_equal(views["swapped"], images[..., [5, 4]])
    assert network(images).shape == (3, 96)


def test_ycbcr_and_normals_stand_in_front():
    network = build((16, 16, 4), color="ycbcr")
    ycbcr = models.YCbCr()(pixels())
    views = network.split(pixels(channels=3).repeat(2, -1)[..., :4])
    assert list(views) == ["Y", "CbCr"] and ycbcr.shape == (3, 16, 16, 3)
    groups = {"color": (0, 1, 2), "normals": (4, 5, 6)}
    network = build((16, 16, 4), color="rgb", views=groups, depth_channel=3)
    images = pixels(channels=4)
    expected = models.depth_to_normals(images[..., 3:])
    np.testing.assert_allclose(network.split(images)["normals"], expected, atol=1e-6)


def test_paths_tell_views_apart_also_when_loaded(tmp_path):
    network, images = build(), pixels()
    network.save(tmp_path / "branches.keras")
    loaded = keras.saving.load_model(tmp_path / "branches.keras")
    for model in (network, loaded, copying.copied(network, "a test")):
        paths = [v.path for v in model.variables]
        assert len(set(paths)) == len(paths) == 2 * len(model.branches["L"].variables)
        assert paths[0].startswith("L/")
        np.testing.assert_array_equal(model(images), network(images))
        assert model.channels == {"L": (0,), "ab": (1, 2)}
    assert list(loaded.stage_outputs) == list(network.stage_outputs)


def test_stages_join_the_maps_of_the_views():
    network, images = build(), pixels()
    assert stages.names(network) == ("conv1", "res2", "res3", "res4", "res5")
    found = stages.any_size(network, "res3")(images)
    each = [
        feature_maps.up_to(network.branches[view], "res3")(channels)
        for view, channels in network.split(images).items()
    ]
    np.testing.assert_allclose(found, np.concatenate(each, axis=-1), atol=1e-5)
    assert stages.any_size(network, "res5")(pixels(side=24)).shape == (3, 3, 3, 64)
    assert set(freezing.depths(network).values()) == {1, 2, 3, 4, 5}
    freezing.freeze(network, "res5")
    assert network.trainable_variables == []
    freezing.freeze(network, "res3")
    left = {v.path.split("_")[0] for v in network.trainable_variables}
    assert left == {f"{view}/stack{i}" for view in ("L", "ab") for i in (2, 3)}


def test_alexnet_joins_its_five_maps_for_any_size():
    network = models.encoder(
        "branches", of="alexnet", input_shape=(64, 64, 3), width=1 / 32
    )
    assert network.output_shape == (None, 256)
    found = stages.any_size(network, "conv5")(pixels(side=80))
    assert found.shape[-1] == 2 * 8


def test_half_of_the_width_unless_given():
    with keras.StatelessScope(initialize_variables=False):
        network = models.encoder("branches", of="resnet50", input_shape=(32, 32, 3))
    assert network.output_shape == (None, 2 * 1024)
    assert {part.width for part in network.branches.values()} == {0.5}


def test_transformers_can_be_branches_without_stages():
    network = models.encoder(
        "branches",
        of="vit_tiny_4",
        dim=16,
        depth=2,
        heads=2,
        input_shape=_SHAPE,
    )
    assert network(pixels()).shape == (3, 32) and network.stage_outputs == {}


def test_a_part_is_the_encoder_of_some_views():
    network, images = build(), pixels()
    part = network.part(["ab"])
    np.testing.assert_array_equal(part(images), network(images)[:, 32:])
    assert {id(v) for v in part.variables} < {id(v) for v in network.variables}
    with pytest.raises(ValueError, match="views='depth' received, .* are L, ab"):
        network.part(["depth"])


def test_recomputation_reaches_every_branch():
    network, images = build(width=1 / 4), pixels(4)

    def gradient():
        return tf.function(in_a_graph)()

    def in_a_graph():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(network(images, training=True)))
        return tape.gradient(loss, [v.value for v in network.trainable_variables])

    expected = gradient()
    remat.switch_on(network)
    parts = [x for x in internals.layers_of(network) if isinstance(x, remat.Blockwise)]
    assert len(parts) == 2 and all(part.remat for part in parts)
    for a, b in zip(expected, gradient()):
        np.testing.assert_allclose(a, b, atol=1e-4 * max(np.abs(a).max(), 1e-3))


def test_mixed_precision_and_xla():
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        network = build()
    finally:
        keras.mixed_precision.set_global_policy("float32")
    images = pixels()
    assert network(images).dtype == "float32"
    np.testing.assert_array_equal(
        network.split(images)["L"], build().split(images)["L"]
    )
    assert network.branches["L"].compute_dtype == "bfloat16"
    plain = build()
    compiled = tf.function(plain, jit_compile=True)(tf.constant(images))
    np.testing.assert_allclose(compiled, plain(images), rtol=1e-3, atol=1e-4)


def test_flags_reach_the_branches_and_their_mistakes_are_told():
    chosen = {"of": "resnet18", "color": "lab"} | _SMALL
    network = resolve.encoder("branches", _SHAPE, chosen)
    assert network.output_shape == (None, 64)
    with pytest.raises(ValueError, match="encoder_arg 'dropout' received, but resnet"):
        resolve.encoder("branches", _SHAPE, {"dropout": 0.5})
    with pytest.raises(
        ValueError, match="of='resnet19' received, expected one of resnet18"
    ):
        resolve.encoder("branches", _SHAPE, {"of": "resnet19"})
    with pytest.raises(ValueError, match="color='hsv' received, expected one of lab"):
        build(color="hsv")
    plain, normalised = (
        resolve.data_lib.Preprocessing(size=16, channels=3, **given)
        for given in ({}, {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)})
    )
    resolve.encoder("branches", _SHAPE, chosen, plain)
    with pytest.raises(
        ValueError, match=r"takes images in \[0, 1\], but the recipe no"
    ):
        resolve.encoder("branches", _SHAPE, chosen, normalised)
    resolve.encoder(
        "branches", _SHAPE, {"color": "rgb", "views": {"a": 0, "b": 1}} | _SMALL,
        normalised,
    )  # fmt: skip
    assert input_range.white(network) == 1


@pytest.mark.parametrize(
    "shape, arguments, sentence",
    [
        ((16, 16, 1), {}, r"channel\(s\) received for Lab, which takes red, green and"),
        ((16, 16, 3), {"views": {"L": (0,), "depth": (3,)}},
         r"The view 'depth' was given the channels \(3,\), but .* channels 0 to 2"),
        ((16, 16, 3), {"color": "rgb"}, "views=None received with color='rgb', exp"),
        ((16, 16, 3), {"views": {"a b": (0,)}}, "A view of the name 'a b' received"),
        ((16, 16, 3), {"views": {"L": ()}}, r"'L' was given the channels \(\), but"),
        ((16, 16, 3), {"views": {"L": "0"}}, r"'L' was given the channels \('0',\)"),
        ((16, 16, 3), {"depth_channel": 3}, "Normals of channel 3 asked for, but"),
    ],
)  # fmt: skip
def test_views_that_the_images_do_not_have_are_refused(shape, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(shape, **arguments)


def test_encoders_must_fit_their_groups():
    network = models.resnet(18, input_shape=(16, 16, 2), **_SMALL)
    with pytest.raises(ValueError, match=r"view 'L' takes 2 channel\(s\), but its gr"):
        models.Branches({"L": network}, {"L": (0,)}, input_shape=_SHAPE)
    with pytest.raises(
        ValueError, match=r"views \['L'\] and channels of the views \[\]"
    ):
        models.Branches({"L": network}, {}, input_shape=_SHAPE)
    maps = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(2, 3)])
    with pytest.raises(ValueError, match="expected a Keras model of layers, images ->"):
        models.Branches({"L": maps}, {"L": (0,)}, input_shape=_SHAPE)
