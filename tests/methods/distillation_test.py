import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.methods.cases import batch_of, one_convolution
from tfssl import data, methods, models
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


def with_token(**arguments):
    """A student of two tokens; its classifiers are far from zero and unlike."""
    keras.utils.set_random_seed(2)
    student = models.vit(
        8, depth=1, heads=2, patch=4, input_shape=(8, 8, 3), distillation_token=True
    )
    arguments = {"class_names": NAMES, "label_weight": 0.5, **arguments}
    made = distillation.Distillation(student, frozen(), **arguments)
    rng = np.random.default_rng(3)
    for variable in made.classifier.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))
    return made


@pytest.mark.parametrize(
    "arguments",
    [{"hard_labels": True}, {"temperature": 3.0, "label_weight": 0.9}],
)
def test_each_token_has_its_own_teacher(arguments):
    """True classes teach the class token, the teacher the other; both say together."""
    method, given = with_token(**arguments), batch(LABELS)
    images = given["views"]["view_0"]
    found = method.image_losses(given, training=True)
    features = np.array(method.encoder(images))
    kernels = [np.array(v) for v in method.classifier.trainable_variables]
    of_class = features[:, :8] @ kernels[0] + kernels[1]
    of_teacher = features[:, 8:] @ kernels[2] + kernels[3]
    np.testing.assert_allclose(
        method.logits(images), (of_class + of_teacher) / 2, rtol=1e-4, atol=1e-5
    )
    weight, temperature = method.label_weight, method.temperature
    taught = np.array(method.teacher.network(images))
    told = softmax(taught / temperature)
    if method.hard_labels:
        told = np.eye(3)[taught.argmax(axis=1)]
    said, true = softmax(of_teacher / temperature), softmax(of_class)
    expected = []
    for t, s, p, label in zip(told, said, true, LABELS):
        from_teacher = -sum(a * np.log(b) for a, b in zip(t, s))
        from_label = -np.log(p[label]) if label >= 0 else 0.0
        expected.append((1 - weight) * from_teacher + weight * from_label)
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-4)
    said = (of_class + of_teacher).argmax(axis=1)
    np.testing.assert_array_equal(found["agreement"], said == taught.argmax(axis=1))


def test_hard_labels_teach_any_student():
    method, given = method_of(hard_labels=True), batch(LABELS)
    found = method.image_losses(given, training=True)["loss"]
    images = given["views"]["view_0"]
    right = np.array(method.teacher.network(images)).argmax(axis=1)
    said = softmax(method.logits(images))
    np.testing.assert_allclose(found, -np.log(said[np.arange(6), right]), rtol=1e-5)


def test_a_distillation_token_needs_labels_and_a_teacher_of_classes():
    with pytest.raises(ValueError, match="label_weight=0.0 .* give label_weight=0.5"):
        with_token(label_weight=0.0)


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
        ({"temperature": 2.0, "hard_labels": True}, "temperature=2.0 .*hard_labels"),
        ({"label_smoothing": 0.1}, "label_smoothing=0.1 .*with label_weight=0"),
        ({"class_weights": (1.0, 2.0, 3.0)}, "class_weights=.*with label_weight=0"),
    ):
        with pytest.raises(ValueError, match=message):
            method_of(**given)
