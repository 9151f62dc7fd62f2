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


def _views(dtype="float32", scale=0.3, seed=0):
    """Two views of a teacher, four of a student, and a centre."""
    rng = np.random.default_rng(seed)
    teacher, student = (scale * rng.normal(size=(n, 6, 5)) for n in (2, 4))
    center = scale * rng.normal(size=5)
    return tf.cast(teacher, dtype), tf.cast(student, dtype), center


def _slow_self_distillation(teacher, student, center, temperatures):
    """Equations 2 and 3 of the paper: a loop over pairs of views and images."""
    of_teacher, of_student = temperatures
    found, entropies = np.zeros(6), np.zeros(6)
    for image in range(6):
        pairs = 0
        for i, x in enumerate(teacher):
            q = np.exp((x[image] - center) / of_teacher)
            q /= q.sum()
            entropies[image] -= (q * np.log(q)).sum() / len(teacher)
            for v, y in enumerate(student):
                if i == v:
                    continue
                p = np.exp(y[image] / of_student)
                found[image] -= (q * np.log(p / p.sum())).sum()
                pairs += 1
        found[image] /= pairs
    return found, entropies


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("temperatures", [(0.04, 0.1), (0.5, 0.2)])
def test_self_distillation_is_that_of_a_double_loop(dtype, temperatures):
    teacher, student, center = _views(dtype)
    settings = dict(teacher_temperature=temperatures[0], temperature=temperatures[1])
    found = losses.self_distillation(teacher, student, center=center, **settings)
    wide = [tf.cast(x, tf.float64).numpy() for x in (teacher, student)]
    expected = _slow_self_distillation(*wide, center, temperatures)
    for one, other in zip(found, expected):
        assert one.shape == (6,) and one.dtype == tf.float32
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_self_distillation_known_by_hand():
    # A student that says nothing: ln(outputs), whatever the teacher says.
    teacher, _, center = _views()
    settings = dict(center=center, teacher_temperature=0.04)
    found, _ = losses.self_distillation(teacher, tf.ones((3, 6, 5)), **settings)
    np.testing.assert_allclose(found, [math.log(5)] * 6, rtol=1e-6)
    # A teacher at its centre says nothing, and a student that agrees has no divergence.
    flat = tf.broadcast_to(tf.cast(center, tf.float32), (2, 6, 5))
    found, entropy = losses.self_distillation(flat, tf.ones((2, 6, 5)), **settings)
    np.testing.assert_allclose(found, entropy, rtol=1e-6)
    np.testing.assert_allclose(entropy, [math.log(5)] * 6, rtol=1e-6)


def test_self_distillation_trains_the_student_alone_and_every_view():
    teacher, student, center = _views()
    center = tf.cast(center, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch([teacher, student, center])
        loss, _ = losses.self_distillation(
            teacher, student, center=center, teacher_temperature=tf.constant(0.1)
        )
    found = tape.gradient(loss, [teacher, student, center])
    assert found[0] is None and found[2] is None
    assert (np.abs(found[1]).max(axis=(1, 2)) > 1e-3).all()


@pytest.mark.parametrize(
    "views, sentence",
    [
        ((2, 1), r"2 view\(s\) of the teacher and 1 of the student received"),
        ((1, 1), "expected two or more of the student"),
    ],
)
def test_self_distillation_needs_a_pair(views, sentence):
    teacher, student = (tf.zeros((n, 3, 4)) for n in views)
    settings = dict(center=tf.zeros(4), teacher_temperature=0.1)
    with pytest.raises(ValueError, match=sentence):
        losses.self_distillation(teacher, student, **settings)
    with pytest.raises(ValueError, match=r"must be \(views, batch, outputs\) of one"):
        losses.self_distillation(teacher, tf.zeros((2, 3, 5)), **settings)
    with pytest.raises(ValueError, match="teacher_temperature=0 received"):
        losses.self_distillation(
            tf.zeros((1, 3, 4)),
            tf.zeros((2, 3, 4)),
            center=tf.zeros(4),
            teacher_temperature=0,
        )
