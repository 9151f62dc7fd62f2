"""What is feature distillation's own; what every method promises is elsewhere."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures import networks
from tests.methods.cases import batch_of, batches, train, two_views
from tests.methods.cases import one_convolution as encoder
from tfssl import data, internals, methods
from tfssl.training import checkpoint


def teacher(**kwargs):
    """Batch norm and dropout would show training mode; weights far from a start."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((12, 12, 3))
    x = keras.layers.Conv2D(7, 3, strides=2, name="map")(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Dropout(0.5)(x)
    network = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    network.set_weights([w + 0.1 for w in network.get_weights()])
    return methods.Frozen(network, data.Preprocessing(size=12, mean=0.5), **kwargs)


def make(**arguments):
    given = teacher()
    keras.utils.set_random_seed(0)
    return methods.FeatureDistillation(encoder(), given, **arguments)


def slow_cosine(a, b):
    a, b = np.float64(a), np.float64(b)
    return np.sum(a * b, -1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def test_the_loss_is_one_minus_the_cosine_of_each_view_by_itself():
    method = make()
    views = two_views()
    values = method.image_losses(batch_of(*views), training=True)
    cosines = []
    for view in views:
        # The teacher gets the same pixels, in its own size and range.
        resized = tf.image.resize(view, [12, 12], antialias=True)
        target = method.teacher.network(resized - 0.5, training=False)
        cosines.append(slow_cosine(method.projector(method.encoder(view)), target))
    expected = np.mean(cosines, axis=0)
    np.testing.assert_allclose(values["loss"], 1 - expected, atol=1e-6)
    np.testing.assert_allclose(values["teacher_cosine"], expected, atol=1e-6)


def test_a_map_is_projected_and_then_resized_to_that_of_the_teacher():
    method = make(teacher_layer="map")
    (view, _) = two_views()
    loss = method.image_losses(batch_of(view), training=True)["loss"]
    resized = tf.image.resize(view, [12, 12], antialias=True)
    target = method.teacher.network.get_layer("map")(resized - 0.5)  # 5 x 5.
    kernel, bias = method.projector.get_weights()
    shown = method.encoder.layers[1](view).numpy() @ kernel + bias  # 6 x 6.
    shown = tf.image.resize(shown, [5, 5], antialias=True)
    difference = np.abs(shown - target)
    smooth = np.where(difference < 1, difference**2 / 2, difference - 0.5).mean(-1)
    expected = 0.9 * (1 - slow_cosine(shown, target)) + 0.1 * smooth
    np.testing.assert_allclose(loss, expected.mean(axis=(1, 2)), rtol=1e-5)
    alone = make(teacher_layer="map", smooth_l1=0.0)
    loss = alone.image_losses(batch_of(view), training=True)["loss"]
    cosines = slow_cosine(shown, target).mean(axis=(1, 2))
    np.testing.assert_allclose(loss, 1 - cosines, rtol=1e-5)


@pytest.mark.parametrize("arguments", [{}, {"teacher_layer": "map"}])
def test_the_teacher_stays_bit_by_bit_and_no_checkpoint_holds_it(arguments):
    method = make(**arguments)
    method.compile(keras.optimizers.AdamW(1e-2, weight_decay=0.5))
    before = [np.array(v) for v in method.teacher.variables]
    train(method, batches("feature_distillation", 3, size=8), steps=3)
    for old, variable in zip(before, method.teacher.variables, strict=True):
        np.testing.assert_array_equal(old, variable)
    learned = {id(v) for v in method.learned_variables}
    theirs = {id(v) for v in method.teacher.variables}
    assert {id(v) for v in method.constants} == theirs and not learned & theirs
    assert {id(v) for v in internals.trained_variables(method.optimizer)} == learned
    held = checkpoint.named_variables(method)
    assert not any("/map/" in name or "normalization" in name for name in held)
    everything = checkpoint.named_variables(method, constants=True)
    assert {id(v.value) for v in method.teacher.variables} <= {
        id(v) for v in everything.values()
    }
    assert set(held) < set(everything)


def test_a_new_training_starts_from_the_student_of_another_method(tmp_path):
    first = methods.SimCLR(encoder(), projection_dim=7)
    first.compile(keras.optimizers.SGD(0.1))
    checkpoint.save(str(tmp_path), first)
    method = make()
    method.compile(keras.optimizers.SGD(0.1))
    theirs = method.teacher.network.get_weights()
    path = checkpoint.latest(str(tmp_path))
    loaded, unmatched = checkpoint.initialize(path, method)
    assert loaded[:2] == ["method/conv2d/bias", "method/conv2d/kernel"]
    assert not any("/map/" in line for line in unmatched)
    for one, other in zip(first.encoder.get_weights(), method.encoder.get_weights()):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(theirs, method.teacher.network.get_weights()):
        np.testing.assert_array_equal(one, other)


def test_the_projection_is_linear_unless_it_has_a_hidden_layer():
    wide = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(900, 8)])
    wide.add(keras.layers.GlobalAveragePooling2D())
    given = teacher()
    method = methods.FeatureDistillation(wide, given)
    kernel, bias = method.projector.get_weights()
    assert kernel.shape == (900, 7) and not bias.any()
    # PyTorch cuts it at -2 and 2, a hundred deviations from the middle.
    assert kernel.std() == pytest.approx(0.02, rel=0.03)
    method = methods.FeatureDistillation(wide, given, projection_hidden=5)
    assert [len(w) for w in method.projector.get_weights()] == [900, 5, 5, 5, 5, 5, 7]


def test_a_student_becomes_its_teacher():
    """From a projection that copies, of the same network: a loss of nothing."""
    keras.utils.set_random_seed(0)
    network = networks.ours()
    given = methods.Frozen(network, data.Preprocessing(size=8))
    method = methods.FeatureDistillation(network, given)
    width = network.output_shape[-1]
    method.projector.set_weights([np.eye(width), np.zeros(width)])
    (view, _) = two_views()
    loss = method.image_losses(batch_of(view), training=False)["loss"]
    np.testing.assert_allclose(loss, np.zeros(5), atol=1e-5)


def test_it_names_its_teacher_at_the_start():
    (line,) = make(teacher_layer="map").notes(16, 100)
    assert "196 trained" not in line and "gives 5 x 5 x 7 for images of 12 px" in line
    assert "224 parameters" in line  # 27 * 7 + 7 and 4 * 7.


def test_what_cannot_be_learned_is_refused():
    for arguments, message in (
        (
            {"teacher": networks.ours()},
            "received, expected a tfssl.methods.Frozen: a K",
        ),
        ({"projection_hidden": -1}, "projection_hidden=-1 received, expected a whole"),
        ({"smooth_l1": 2}, r"smooth_l1=2 received, expected a number from 0 to 1"),
        (
            {"student_layer": "x"},
            "'x' received, but the teacher gives features .None, 7",
        ),
        (
            {"teacher_layer": "x"},
            "layer 'x' received, but the feature maps of .* map, ",
        ),
        ({"teacher_layer": "map", "student_layer": "x"}, "layer 'x' received, but the"),
    ):
        with pytest.raises(ValueError, match=message):
            methods.FeatureDistillation(encoder(), **{"teacher": teacher()} | arguments)
    tokens = keras.Input((8, 8, 3))
    tokens = keras.Model(tokens, keras.layers.Reshape((64, 3))(tokens))
    given = methods.Frozen(tokens, data.Preprocessing(size=8))
    with pytest.raises(ValueError, match=r"gives \(None, 64, 3\), expected features"):
        methods.FeatureDistillation(encoder(), given)
    with pytest.raises(
        ValueError, match="'res3' leaves .* weights of the student untr"
    ):
        methods.FeatureDistillation(
            networks.ours(), teacher(), teacher_layer="map", student_layer="res3"
        )
