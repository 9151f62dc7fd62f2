import math

import numpy as np
import pytest
import tensorflow as tf

from tfssl import losses


def _slow(teacher, student, temperature):
    """The equation image by image and class by class, in float64."""
    found = []
    for of_teacher, of_student in zip(teacher, student):
        top = max(map(float, of_student))
        scaled = [(float(x) - top) / temperature for x in of_student]
        total = math.log(sum(map(math.exp, scaled)))
        weights = [
            math.exp((float(x) - max(map(float, of_teacher))) / temperature)
            for x in of_teacher
        ]
        terms = [w / sum(weights) * (x - total) for w, x in zip(weights, scaled)]
        found.append(-sum(terms))
    return found


def _logits(dtype="float32", scale=3.0, seed=0):
    rng = np.random.default_rng(seed)
    teacher, student = scale * rng.normal(size=(2, 6, 5))
    return tf.cast(teacher, dtype), tf.cast(student, dtype)


@pytest.mark.parametrize("temperature", [0.1, 1, 4.0])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_loss_is_that_of_the_equation(dtype, temperature):
    teacher, student = _logits(dtype)
    found = losses.distillation(teacher, student, temperature=temperature)
    assert found.shape == (6,) and found.dtype == tf.float32
    wide = [tf.cast(x, tf.float64).numpy() for x in (teacher, student)]
    np.testing.assert_allclose(found, _slow(*wide, temperature), rtol=1e-5, atol=1e-6)


def test_values_known_by_hand():
    same = tf.math.log([[0.5, 0.25, 0.25]])
    entropy = 1.5 * math.log(2)
    found = losses.distillation(same, same + 7.0, temperature=1.0)
    np.testing.assert_allclose(found, [entropy], rtol=1e-6)
    # A student that says nothing: ln(classes) at any temperature, without a factor.
    for temperature in (0.1, 3.0):
        found = losses.distillation(same, tf.ones((1, 3)), temperature=temperature)
        np.testing.assert_allclose(found, [math.log(3)], rtol=1e-6)


@pytest.mark.parametrize("temperature", [0.1, 2.0])
def test_gradient_is_for_the_student_alone(temperature):
    teacher, student = _logits()
    with tf.GradientTape() as tape:
        tape.watch([teacher, student])
        loss = losses.distillation(teacher, student, temperature=temperature)
    of_teacher, of_student = tape.gradient(loss, [teacher, student])
    assert of_teacher is None
    p_teacher = tf.nn.softmax(teacher / temperature)
    p_student = tf.nn.softmax(student / temperature)
    expected = (p_student - p_teacher) / temperature
    np.testing.assert_allclose(of_student, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype, scale", [("float16", 6e4), ("float32", 1e30)])
def test_large_logits_stay_finite(dtype, scale):
    teacher = tf.constant([[scale, 0, -scale], [scale, 0, -scale]], dtype)
    student = tf.constant([[scale, -scale, 0], [-scale, 0, scale]], dtype)
    with tf.GradientTape() as tape:
        tape.watch(student)
        loss = losses.distillation(teacher, student, temperature=0.1)
    slope = tape.gradient(loss, student)
    wide = [tf.cast(x, tf.float64).numpy() for x in (teacher, student)]
    np.testing.assert_allclose(loss, _slow(*wide, 0.1), rtol=1e-5)
    expected = [[0.0, 0, 0], [-10, 0, 10]]
    np.testing.assert_allclose(tf.cast(slope, tf.float32), expected, rtol=1e-2)


def test_xla_agrees_also_with_an_unknown_batch():
    teacher, student = _logits()
    spec = tf.TensorSpec((None, 5))

    @tf.function(input_signature=[spec, spec], jit_compile=True)
    def compiled(teacher, student):
        return losses.distillation(teacher, student, temperature=0.5)

    expected = losses.distillation(teacher, student, temperature=0.5)
    np.testing.assert_allclose(compiled(teacher, student), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "shapes", [((3, 4), (3, 5)), ((3, 4), (2, 4)), ((4,), (4,)), ((3, 4), (4,))]
)
def test_shapes_that_do_not_fit(shapes):
    with pytest.raises(ValueError, match=r"one shape \(batch, classes\), got \("):
        losses.distillation(*map(tf.zeros, shapes), temperature=1.0)


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), None])
def test_temperatures_that_are_none(temperature):
    with pytest.raises(ValueError, match="temperature=.* received, expected a number"):
        losses.distillation(*_logits(), temperature=temperature)
