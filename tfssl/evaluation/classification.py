"""Scores of a classifier, from what it says of images and from their labels.

Equal outputs never help: for one class per image the smaller class number comes first,
whatever the label is; for several classes per image, all images of one score stand
above a threshold together or not at all. So a classifier that says the same of every
image gets what chance gives, and the order of the images changes nothing.

Reference:
    Everingham et al., 2010, "The PASCAL Visual Object Classes (VOC) Challenge",
    section 4.2 (11 points), and `VOCap.m` of VOC2010's development kit (area).
"""

import dataclasses

import numpy as np

_TOP = 5
_ROWS = 4096  # Images that are ranked at once: bounds the memory.
# Sums of half-precision probabilities over 1,000 classes are that near to 1.
_SUM_TOLERANCE = 0.02


@dataclasses.dataclass(frozen=True)
class SingleLabel:
    """What `single_label` found.

    Attributes:
        top1: share of labelled images whose class is the one with the largest output.
        top5: share of those whose class is among the five largest outputs, or None
            where there are at most five classes.
        mean_per_class: mean of `per_class` over the classes that occur.
        per_class: float64 `(classes,)`, share of a class's images that are right; NaN
            for a class without images.
        images: int64 `(classes,)`, labelled images of each class.
        cells: int64 `(cells, 3)`, what of `confusion` is not 0: true class, predicted
            class, number of images; ordered by the classes.
        unlabelled: number of images that were left out, their label being negative.
    """

    top1: float
    top5: float | None
    mean_per_class: float
    per_class: np.ndarray
    images: np.ndarray
    cells: np.ndarray
    unlabelled: int

    @property
    def confusion(self):
        """int64 `(classes, classes)`, images by true (row) and predicted class.

        Made anew: of 20,000 classes it takes 3.2 GB.
        """
        matrix = np.zeros((len(self.images), len(self.images)), np.int64)
        true, predicted, count = self.cells.T
        matrix[true, predicted] = count
        return matrix


@dataclasses.dataclass(frozen=True)
class MultiLabel:
    """What `multi_label` found; all arrays are `(classes,)`.

    Attributes:
        mean_ap: mean of `ap` over the classes that occur.
        mean_ap_11_points: mean of `ap_11_points` over the same classes.
        ap: float64, area under the precision over recall, as VOC has it since 2010;
            NaN for a class without images.
        ap_11_points: float64, VOC2007's mean of the precision at 11 recalls; NaN as
            above.
        positives: int64, images that have the class.
        left_out: int64, images of which it is not known whether they have it.
    """

    mean_ap: float
    mean_ap_11_points: float
    ap: np.ndarray
    ap_11_points: np.ndarray
    positives: np.ndarray
    left_out: np.ndarray


@dataclasses.dataclass(frozen=True)
class Mistakes:
    """Images that a classifier is wrong about, the surest first; all are `(n,)`.

    Attributes:
        rows: int64, rows of the outputs.
        predicted: int64, class with the largest probability.
        true: int64, class of the image.
        probability: float64, of the predicted class.
    """

    rows: np.ndarray
    predicted: np.ndarray
    true: np.ndarray
    probability: np.ndarray

    def __len__(self):
        return len(self.rows)


def single_label(outputs, labels):
    """Scores a classifier of images that have one class each.

    Args:
        outputs: float `(n, classes)`, logits or probabilities: only their order counts.
        labels: int `(n,)`, below `classes`; negative where unknown, which leaves the
            image out.

    Returns:
        `SingleLabel`.

    Raises:
        ValueError: for outputs and labels that do not fit, a NaN or infinite output,
            or no labelled image.
    """
    outputs, labels = _single(outputs, labels)
    known = labels >= 0
    if not known.any():
        raise ValueError(
            f"None of the {len(labels)} images has a label (0 or more), so there is "
            "nothing to score."
        )
    classes, true = outputs.shape[1], labels[known]
    predicted = outputs.argmax(axis=1)[known]
    images, right = (
        np.bincount(some, minlength=classes) for some in (true, true[predicted == true])
    )
    places = _places(outputs, np.maximum(labels, 0))[known]
    cells, counts = np.unique(true * classes + predicted, return_counts=True)
    per_class = np.where(images > 0, right / np.maximum(images, 1), np.nan)
    return SingleLabel(
        top1=float(right.sum() / images.sum()),
        top5=float((places < _TOP).mean()) if classes > _TOP else None,
        mean_per_class=float(per_class[images > 0].mean()),
        per_class=per_class,
        images=images,
        cells=np.stack([*np.divmod(cells, classes), counts], axis=1),
        unlabelled=int((~known).sum()),
    )


def mistakes(probabilities, labels, *, most=None):
    """The images that a classifier of one class per image is most wrongly sure of.

    Args:
        probabilities: float `(n, classes)`, rows of sum 1; see `softmax`.
        labels: int `(n,)`, as for `single_label`; images without one are left out.
        most: how many to return at the most; None is all.

    Returns:
        `Mistakes`, by falling probability; of equal ones the earlier image first.

    Raises:
        ValueError: as `single_label`, and for what are no probabilities.
    """
    probabilities, labels = _single(probabilities, labels)
    sums = probabilities.sum(axis=1, dtype=np.float64)
    if len(sums) and (
        probabilities.min() < 0 or np.abs(sums - 1).max() > _SUM_TOLERANCE
    ):
        raise ValueError(
            f"The probabilities of an image sum to {sums[np.abs(sums - 1).argmax()]:g} "
            f"and the least is {probabilities.min():g}; expected none below 0, and a "
            "sum of 1: give softmax(logits)."
        )
    predicted = probabilities.argmax(axis=1)
    rows = np.flatnonzero((labels >= 0) & (predicted != labels))
    sure = probabilities[rows, predicted[rows]].astype(np.float64)
    order = np.argsort(-sure, kind="stable")[:most]
    rows = rows[order]
    return Mistakes(rows, predicted[rows], labels[rows], sure[order])


def softmax(logits):
    """Probabilities `(n, classes)`, float64, of logits; no logit is too large."""
    logits = np.asarray(logits, np.float64)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def multi_label(scores, labels):
    """Scores a classifier of images that have any number of classes.

    Args:
        scores: float `(n, classes)`, larger where the class is more likely: logits or
            probabilities, since only the order of the images counts.
        labels: int `(n, classes)`: 1 for an image that has the class, 0 for one that
            has not, -1 where that is unknown or VOC calls it difficult, which leaves
            the image out of this class.

    Returns:
        `MultiLabel`.

    Raises:
        ValueError: for scores and labels that do not fit, a NaN or infinite score,
            another label, or no class that any image has.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 2 or labels.shape != scores.shape:
        raise ValueError(
            f"Scores of shape {scores.shape} and labels of shape {labels.shape} were "
            "given; expected (images, classes) for both."
        )
    _check_finite(scores)
    if not np.isin(labels, (-1, 0, 1)).all():
        raise ValueError(
            "A label of several classes per image is 1 (has it), 0 (has it not) or -1 "
            f"(unknown), got {labels[~np.isin(labels, (-1, 0, 1))][0]!r}."
        )
    positives = (labels == 1).sum(axis=0)
    occur = positives > 0
    if not occur.any():
        raise ValueError(
            f"None of the {len(labels)} images has any class, so there is nothing to "
            "score."
        )
    forms = np.full((2, scores.shape[1]), np.nan)
    for number in np.flatnonzero(occur):
        known = labels[:, number] >= 0
        forms[:, number] = _average_precisions(
            scores[known, number], labels[known, number]
        )
    means = forms[:, occur].mean(axis=1)
    return MultiLabel(
        mean_ap=float(means[0]),
        mean_ap_11_points=float(means[1]),
        ap=forms[0],
        ap_11_points=forms[1],
        positives=positives.astype(np.int64),
        left_out=(labels < 0).sum(axis=0).astype(np.int64),
    )


def _average_precisions(scores, has):
    """The area and the 11-point form, of images that have a class (1) or not (0)."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    # One threshold for all images of one score: where the next score is lower.
    last = np.append(ranked[1:] != ranked[:-1], True)
    found = np.cumsum(has[order], dtype=np.int64)[last]
    precision = found / (np.flatnonzero(last) + 1)
    # The best precision at this recall or a larger one.
    best = np.maximum.accumulate(precision[::-1])[::-1]
    area = (np.diff(found, prepend=0) * best).sum() / found[-1]
    # Recall i / 10 is reached where 10 * found >= i * positives: exact, in integers.
    first = np.searchsorted(10 * found, np.arange(11) * found[-1])
    return area, best[first].mean()


def _places(outputs, true):
    """How many classes come before each image's own."""
    found = np.empty(len(true), np.int64)
    for start in range(0, len(true), _ROWS):
        rows = outputs[start : start + _ROWS]
        of_rows = true[start : start + _ROWS, np.newaxis]
        own = np.take_along_axis(rows, of_rows, axis=1)
        earlier = np.arange(outputs.shape[1]) < of_rows
        places = (rows > own) | ((rows == own) & earlier)
        found[start : start + _ROWS] = places.sum(axis=1)
    return found


def _single(outputs, labels):
    outputs, labels = np.asarray(outputs), np.asarray(labels)
    if outputs.ndim != 2 or outputs.shape[1] < 2 or labels.shape != outputs.shape[:1]:
        raise ValueError(
            f"Outputs of shape {outputs.shape} and labels of shape {labels.shape} were "
            "given; expected (images, classes), 2 classes or more, and (images,)."
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"Labels are whole numbers, got {labels.dtype}.")
    _check_finite(outputs)
    labels = labels.astype(np.int64)
    if labels.max(initial=-1) >= outputs.shape[1]:
        raise ValueError(
            f"A label is {labels.max()}, but the classifier knows {outputs.shape[1]} "
            f"classes, 0 to {outputs.shape[1] - 1}."
        )
    return outputs, labels


def _check_finite(outputs):
    if not np.isfinite(outputs).all():
        raise ValueError(
            "An output is NaN or infinite, so nothing can be ranked; the classifier "
            "has diverged."
        )
