"""Scores of a segmentation, from the pixels of all images together.

Reference:
    Everingham et al., 2010, "The PASCAL Visual Object Classes (VOC) Challenge"
    (intersection over union); Long et al., 2015, https://arxiv.org/abs/1411.4038,
    section 5.
"""

import dataclasses

import numpy as np

# Of all classes and pixels, that are held at once: half a GiB in float32.
NUMBERS = 1 << 27


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """What `scores` found.

    Attributes:
        mean_iou: mean of `iou` over the classes that occur or are said.
        pixel_accuracy: share of the pixels whose class is right.
        iou: float64 `(classes,)`, of each class the pixels that are and are called so,
            over those that are or are called so; NaN for a class that neither occurs
            nor is ever said.
        pixels: int64 `(classes,)`, pixels of each class.
        confusion: int64 `(classes, classes)`, pixels by true class (row) and predicted
            class (column).
    """

    mean_iou: float
    pixel_accuracy: float
    iou: np.ndarray
    pixels: np.ndarray
    confusion: np.ndarray


def images_at_once(wanted, side, classes):
    """How many images a segmenter is given at once, so that their maps fit `NUMBERS`.

    Args:
        wanted: int, how many at most.
        side: int, of the square images that it takes.
        classes: int.

    Returns:
        int, 1 or more.
    """
    return max(1, min(wanted, NUMBERS // (side**2 * classes)))


def confusion(predicted, labels, classes):
    """Pixels by true and predicted class, to be added up over all images.

    Args:
        predicted: int array of any shape, from 0 to `classes - 1`.
        labels: int array of the same shape; of others than these numbers, as 255, a
            pixel does not count.
        classes: int.

    Returns:
        int64 `(classes, classes)`, true class by row.

    Raises:
        ValueError: for shapes that differ, or a prediction that is no class.
    """
    predicted, labels = np.asarray(predicted), np.asarray(labels)
    if predicted.shape != labels.shape:
        raise ValueError(
            f"Predictions of shape {predicted.shape} and labels of shape "
            f"{labels.shape} received, expected the same."
        )
    known = (labels >= 0) & (labels < classes)
    said, true = predicted[known].astype(np.int64), labels[known].astype(np.int64)
    if said.size and not 0 <= said.min() <= said.max() < classes:
        raise ValueError(
            f"Predictions from {said.min()} to {said.max()} received, but the classes "
            f"are 0 to {classes - 1}."
        )
    cells = np.bincount(true * classes + said, minlength=classes * classes)
    return cells.reshape(classes, classes).astype(np.int64)


def scores(confusion):
    """Scores of a confusion matrix of pixels.

    Args:
        confusion: int `(classes, classes)`, see the function `confusion`.

    Returns:
        `Segmentation`.

    Raises:
        ValueError: if no pixel counts.
    """
    confusion = np.asarray(confusion, np.int64)
    true, said, right = confusion.sum(1), confusion.sum(0), confusion.diagonal()
    if not true.sum():
        raise ValueError(
            "None of the pixels has a class, so there is nothing to score."
        )
    either = true + said - right
    iou = np.where(either > 0, right / np.maximum(either, 1), np.nan)
    return Segmentation(
        mean_iou=float(iou[either > 0].mean()),
        pixel_accuracy=float(right.sum() / true.sum()),
        iou=iou,
        pixels=true,
        confusion=confusion,
    )
