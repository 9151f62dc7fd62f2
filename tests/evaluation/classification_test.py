import tracemalloc

import numpy as np
import pytest
from sklearn import metrics

from tfssl.evaluation import classification


def drawn(n, classes, seed=0, ties=False):
    """Outputs that are right more often than chance, and labels, some unknown."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    outputs = rng.normal(size=(n, classes)) + 2 * np.eye(classes)[labels]
    if ties:
        outputs = np.round(outputs)
    labels[rng.random(n) < 0.2] = -1
    return outputs.astype(np.float32), labels


def slow_single(outputs, labels):
    """Image by image: top-1, top-5, right and all per class, the confusion matrix."""
    classes = outputs.shape[1]
    confusion = [[0] * classes for _ in range(classes)]
    hits = {1: 0, 5: 0}
    for row, label in zip(outputs.tolist(), labels.tolist()):
        if label < 0:
            continue
        ranked = sorted(range(classes), key=lambda c: (-row[c], c))
        confusion[label][ranked[0]] += 1
        for k in hits:
            hits[k] += label in ranked[:k]
    count = sum(map(sum, confusion))
    return hits[1] / count, hits[5] / count, confusion


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n, classes", [(300, 9), (40, 30)])
def test_single_label_equals_the_slow_form(n, classes, ties):
    outputs, labels = drawn(n, classes, ties=ties)
    top1, top5, confusion = slow_single(outputs, labels)
    found = classification.single_label(outputs, labels)
    assert found.top1 == pytest.approx(top1) and found.top5 == pytest.approx(top5)
    np.testing.assert_array_equal(found.confusion, confusion)
    assert found.confusion.dtype == np.int64
    assert found.unlabelled == (labels < 0).sum() > 0
    known = labels >= 0
    if ties:  # scikit-learn is free to choose among them.
        return
    predicted = outputs[known].argmax(1)
    np.testing.assert_array_equal(
        found.confusion,
        metrics.confusion_matrix(labels[known], predicted, labels=range(classes)),
    )
    occur = np.isin(np.arange(classes), labels)
    recalls = metrics.recall_score(
        labels[known], predicted, labels=np.arange(classes)[occur], average=None
    )
    np.testing.assert_allclose(found.per_class[occur], recalls)
    assert np.isnan(found.per_class[~occur]).all()
    assert found.mean_per_class == pytest.approx(recalls.mean())


def test_single_label_by_hand():
    outputs = np.array([[3, 1, 2], [3, 1, 2], [0, 5, 1], [9, 0, 0], [0, 0, 9]])
    found = classification.single_label(outputs, np.array([0, 2, 1, -1, 0]))
    assert found.confusion.tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 0]]
    assert found.top1 == 0.5 and found.top5 is None and found.unlabelled == 1
    assert found.per_class.tolist() == [0.5, 1.0, 0.0]
    assert found.mean_per_class == 0.5
    # A class that no image has counts nowhere.
    found = classification.single_label(outputs[:1], np.array([0]))
    assert found.mean_per_class == 1.0 and np.isnan(found.per_class[1:]).all()


def test_the_matrix_of_many_classes_takes_memory_where_it_is_asked_for_only():
    """Of ImageNet-21k's it would take 3.8 GB."""
    classes = 20_000
    outputs = np.zeros((30, classes), np.float32)
    outputs[np.arange(30), [7] * 15 + [19_999] * 15] = 1
    tracemalloc.start()
    found = classification.single_label(outputs, np.array([7] * 10 + [9] * 20))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * outputs.nbytes
    assert found.cells.tolist() == [[7, 7, 10], [9, 7, 5], [9, 19_999, 15]]
    assert found.images[[7, 9]].tolist() == [10, 20] and found.images.sum() == 30
    assert found.top1 == 10 / 30 and found.mean_per_class == 0.5


def test_outputs_are_not_copied_whole():
    outputs, labels = drawn(100_000, 20)
    tracemalloc.start()
    classification.single_label(outputs, labels)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (labels < 0).any() and peak < outputs.nbytes / 2 + 5 * labels.nbytes


def test_a_classifier_that_says_the_same_of_all_is_no_better_than_chance():
    labels = np.repeat(np.arange(10), 7)
    for outputs in (np.zeros((70, 10)), np.tile(np.arange(10.0), (70, 1))):
        found = classification.single_label(outputs, labels)
        assert found.top1 == 0.1 and found.top5 == 0.5
    several = np.eye(10, dtype=int)[labels]
    found = classification.multi_label(np.zeros((70, 10)), several)
    np.testing.assert_allclose(found.ap, 0.1)
    np.testing.assert_allclose(found.ap_11_points, 0.1)


def test_probabilities_score_as_their_logits():
    outputs, labels = drawn(100, 7)
    powers = np.exp(outputs.astype(np.float64))
    plain = powers / powers.sum(1, keepdims=True)
    soft = classification.softmax(outputs)
    np.testing.assert_allclose(soft, plain, rtol=1e-12)
    assert np.isfinite(classification.softmax([[1e5, -1e5]])).all()
    a, b = (classification.single_label(x, labels) for x in (outputs, soft))
    np.testing.assert_array_equal(a.confusion, b.confusion)
    assert a.top5 == b.top5


def test_mistakes_come_surest_first():
    probabilities = np.array(
        [[0.7, 0.3], [0.1, 0.9], [0.3, 0.7], [0.05, 0.95], [0.2, 0.8]]
    )
    found = classification.mistakes(probabilities, np.array([1, 1, 0, -1, 0]))
    assert found.rows.tolist() == [4, 0, 2] and len(found) == 3
    assert found.predicted.tolist() == [1, 0, 1] and found.true.tolist() == [0, 1, 0]
    assert found.probability.tolist() == [0.8, 0.7, 0.7]  # The earlier of equal ones.
    found = classification.mistakes(probabilities, np.array([1, 1, 0, -1, 0]), most=1)
    assert found.rows.tolist() == [4]
    assert len(classification.mistakes(probabilities, np.array([0, 1, 1, 1, 1]))) == 0


def several(n, classes, seed=0, ties=False):
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, classes)) < rng.uniform(0.02, 0.6, classes)).astype(int)
    scores = rng.normal(size=(n, classes)) + labels
    labels[rng.random((n, classes)) < 0.1] = -1
    labels[:, 1] = np.minimum(labels[:, 1], 0)  # A class that no image has.
    return np.round(scores, 1 if ties else 6).astype(np.float32), labels


def slow_average_precisions(scores, labels):
    """A class by VOC's two rules: precision at every threshold, then loops over it."""
    kept = [(s, bool(has)) for s, has in zip(scores, labels) if has >= 0]
    total = sum(has for _, has in kept)
    curve = []
    for threshold in sorted({s for s, _ in kept}, reverse=True):
        above = [has for s, has in kept if s >= threshold]
        curve.append((sum(above), sum(above) / len(above)))
    eleven = 0.0
    for tenth in range(11):
        reached = [p for hits, p in curve if 10 * hits >= tenth * total]
        eleven += max(reached, default=0.0) / 11
    hits = [0] + [h for h, _ in curve] + [total]  # VOCap.m of the VOC2010 kit.
    precision = [0.0] + [p for _, p in curve] + [0.0]
    for i in reversed(range(len(precision) - 1)):
        precision[i] = max(precision[i], precision[i + 1])
    area = 0.0
    for i in range(1, len(hits)):
        area += (hits[i] - hits[i - 1]) / total * precision[i]
    return area, eleven


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n", [30, 400])
def test_multi_label_equals_the_slow_form(n, ties):
    scores, labels = several(n, 6, ties=ties)
    found = classification.multi_label(scores, labels)
    assert found.positives.tolist() == (labels == 1).sum(0).tolist()
    assert found.left_out.tolist() == (labels == -1).sum(0).tolist()
    assert np.isnan(found.ap[1]) and np.isnan(found.ap_11_points[1])
    for number in np.flatnonzero(found.positives):
        area, eleven = slow_average_precisions(scores[:, number], labels[:, number])
        assert found.ap[number] == pytest.approx(area)
        assert found.ap_11_points[number] == pytest.approx(eleven)
    assert found.mean_ap == pytest.approx(np.nanmean(found.ap))
    assert found.mean_ap_11_points == pytest.approx(np.nanmean(found.ap_11_points))


@pytest.mark.parametrize("ties", [False, True])
def test_the_area_is_that_of_scikit_learns_curve(ties):
    """Its curve, made to fall as VOC has it; its own AP is not, and is less."""
    scores, labels = several(200, 6, seed=1, ties=ties)
    found = classification.multi_label(scores, labels)
    for number in np.flatnonzero(found.positives):
        known = labels[:, number] >= 0
        given = labels[known, number], scores[known, number]
        precision, recall, _ = metrics.precision_recall_curve(*given)
        best = np.maximum.accumulate(precision[:-1])  # By rising recall from the end.
        assert found.ap[number] == pytest.approx(-(np.diff(recall) * best).sum())
        assert metrics.average_precision_score(*given) < found.ap[number]


def test_the_order_of_images_changes_nothing():
    scores, labels = several(200, 6, ties=True)
    order = np.random.default_rng(3).permutation(200)
    a = classification.multi_label(scores, labels)
    b = classification.multi_label(scores[order], labels[order])
    np.testing.assert_array_equal(a.ap, b.ap)
    np.testing.assert_array_equal(a.ap_11_points, b.ap_11_points)


def test_multi_label_by_hand():
    # Ranked: has, has not, has. Precision 1 to recall 1/2, then 2/3.
    scores, labels = np.array([[0.9], [0.8], [0.1], [0.7]]), [[1], [0], [1], [-1]]
    found = classification.multi_label(scores, np.array(labels))
    assert found.mean_ap == pytest.approx((1 + 2 / 3) / 2)
    assert found.mean_ap_11_points == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)


@pytest.mark.parametrize(
    "outputs, labels, message",
    [
        (np.zeros((3, 2)), np.zeros(4, int), r"\(3, 2\) and labels of shape \(4,\)"),
        (np.zeros((3, 1)), np.zeros(3, int), "2 classes or more"),
        (np.zeros((3, 2)), np.zeros(3), "whole numbers, got float64"),
        (np.zeros((3, 2)), np.array([0, 2, 0]), "label is 2, but .* 2 classes, 0 to 1"),
        (np.full((3, 2), np.nan), np.zeros(3, int), "NaN or infinite"),
        (np.zeros((3, 2)), np.full(3, -1), "None of the 3 images has a label"),
    ],
)
def test_single_label_refuses(outputs, labels, message):
    with pytest.raises(ValueError, match=message):
        classification.single_label(outputs, labels)


@pytest.mark.parametrize(
    "scores, labels, message",
    [
        (np.zeros((3, 2)), np.zeros(3, int), r"\(3, 2\) and labels of shape \(3,\)"),
        (np.zeros((3, 2)), np.full((3, 2), 2), r"1 \(has it\), .* got .*2"),
        (np.full((3, 2), np.inf), np.ones((3, 2), int), "NaN or infinite"),
        (np.zeros((3, 2)), np.full((3, 2), -1), "None of the 3 images has any class"),
    ],
)
def test_multi_label_refuses(scores, labels, message):
    with pytest.raises(ValueError, match=message):
        classification.multi_label(scores, labels)


def test_mistakes_refuse_logits():
    with pytest.raises(ValueError, match=r"sum to 4 .* give softmax\(logits\)"):
        classification.mistakes(np.array([[1.0, 3.0]]), np.array([0]))
    with pytest.raises(ValueError, match="the least is -1"):
        classification.mistakes(np.array([[-1.0, 2.0]]), np.array([0]))
