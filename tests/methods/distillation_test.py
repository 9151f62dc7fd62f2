import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.methods.cases import batch_of, one_convolution
from tfssl import data, methods
from tfssl.methods import distillation, mixing

NAMES = ("ant", "bee", "cat")


def frozen(classes=3):
    keras.utils.set_random_seed(7)
    network = one_convolution(dim=classes)
    return methods.Frozen(network, data.Preprocessing(size=8))


def method_of(teacher=None, **arguments):
    keras.utils.set_random_seed(1)
    arguments = {"class_names": NAMES, **arguments}
    made = distillation.Distillation(
        one_convolution(), teacher or frozen(), **arguments
    )
    rng = np.random.default_rng(3)
    for variable in made.classifier.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))
    return made


def batch(labels):
    images = np.random.default_rng(0).uniform(size=(len(labels), 8, 8, 3))
    return batch_of(images.astype("float32")) | {"label": tf.constant(labels)}


def softmax(rows):
    powers = np.exp(np.asarray(rows, np.float64))
    return powers / powers.sum(axis=1, keepdims=True)


LABELS = [0, -1, 2, -1, 1, 1]


@pytest.mark.parametrize("weight, temperature", [(0.0, 1.0), (0.3, 0.5)])
def test_loss_is_that_of_the_paper(weight, temperature):
    method = method_of(label_weight=weight, temperature=temperature)
    given = batch(LABELS)
    found = method.image_losses(given, training=True)
    images = given["views"]["view_0"]
    teacher, student = method.teacher.network(images), method.logits(images)
    told, said = (softmax(np.array(x) / temperature) for x in (teacher, student))
    expected = []
    for t, s, label, p in zip(told, said, LABELS, softmax(student)):
        soft = -sum(a * np.log(b) for a, b in zip(t, s))
        hard = -np.log(p[label]) if label >= 0 else 0.0
        expected.append((1 - weight) * soft + weight * hard)
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-5)
    same = np.argmax(teacher, axis=1) == np.argmax(student, axis=1)
    np.testing.assert_array_equal(found["agreement"], same)


def test_labels_are_asked_for_only_where_they_count():
    assert not method_of().with_labels and method_of(label_weight=0.1).with_labels
    given = batch(LABELS)
    del given["label"]
    method_of().image_losses(given, training=True)


def test_the_teacher_sees_the_mix():
    method, given = method_of(mixup=0.4, label_weight=0.3), batch(LABELS)
    found = method.image_losses(given, training=True)["loss"]
    drawn = mixing.Mixing(0.4).draw(0, given["position"])
    mixed, share = mixing.apply(given["views"]["view_0"], drawn)
    told, said = softmax(method.teacher.network(mixed)), softmax(method.logits(mixed))
    soft = -(told * np.log(said)).sum(axis=1)
    hard = np.zeros(6)
    for row in (4, 5):  # The only pair both of whose labels are known.
        own, other = LABELS[row], LABELS[row ^ 1]
        hard[row] = -share[row] * np.log(said[row, own])
        hard[row] -= (1 - share[row]) * np.log(said[row, other])
    np.testing.assert_allclose(found, 0.7 * soft + 0.3 * hard, rtol=1e-4)


def test_the_teacher_stays_as_it_is():
    method = method_of()
    method.compile(keras.optimizers.SGD(1.0))
    method.build_optimizer()
    before = [np.array(v) for v in method.teacher.network.variables]
    method.train_step(batch(LABELS))
    for old, new in zip(before, method.teacher.network.variables):
        np.testing.assert_array_equal(old, new)
    theirs = {id(v) for v in method.teacher.variables}
    assert not theirs & {id(v) for v in method.learned_variables}


def test_settings_that_cannot_work():
    for given, message in (
        ({"teacher": frozen(4)}, r"gives \(None, 4\), expected logits of 3 classes"),
        ({"teacher": one_convolution()}, "teacher=.*expected a tfssl.methods.Frozen"),
        ({"label_weight": 1.0}, "label_weight=1.0"),
        ({"temperature": 0.0}, "temperature=0.0"),
    ):
        with pytest.raises(ValueError, match=message):
            method_of(**given)
