"""Instance retrieval: ground truth of Oxford5k and Paris6k, and its mean AP.

Reference:
    Philbin et al., 2007, "Object retrieval with large vocabularies and fast spatial
    matching", section 2, and the program `compute_ap` that comes with its data.
"""

import dataclasses
import os

import numpy as np
import tensorflow as tf

_PREFIX = "oxc1_"  # Of Oxford's query images in the ground truth, not of their files.
_PARTS = ("good", "ok", "junk")


@dataclasses.dataclass(frozen=True)
class Query:
    """One query: an image, its region of interest, and what should be found.

    Attributes:
        name: of the query ("all_souls_1").
        image: name of its image, without folder and ending.
        box: `(left, top, right, bottom)` in pixels of the image, or None for all of
            it.
        positives: frozenset of the names of the images to find (good and ok ones).
            Oxford5k and Paris6k count the query's own image among them.
        junk: frozenset of the names of images that are neither right nor wrong.
    """

    name: str
    image: str
    box: tuple | None
    positives: frozenset
    junk: frozenset


def read_ground_truth(folder):
    """The queries of a folder of ground-truth files, sorted by name.

    For each query four text files: `<name>_query.txt` of one line, an image and its
    box (`oxc1_all_souls_000013 136.5 34.1 648.5 955.7`; a leading `oxc1_` is taken
    off), and `<name>_good.txt`, `<name>_ok.txt` and `<name>_junk.txt` of an image
    each line.

    Args:
        folder: local, or any that `tf.io.gfile` lists.

    Returns:
        Tuple of `Query`.

    Raises:
        ValueError: if there is no query, a file is missing or cannot be understood,
            or a query has nothing to find.
    """
    ending = "_query.txt"
    try:
        found = sorted(f for f in tf.io.gfile.listdir(folder) if f.endswith(ending))
    except tf.errors.NotFoundError:
        found = []
    if not found:
        raise ValueError(
            f"No ground truth in {folder!r}: expected files <name>_query.txt, "
            "<name>_good.txt, <name>_ok.txt and <name>_junk.txt for each query."
        )
    return tuple(_query(folder, file.removesuffix(ending)) for file in found)


def _query(folder, name):
    path = os.path.join(folder, f"{name}_query.txt")
    lines = _lines(path)
    words = lines[0].split() if lines else []
    try:
        box = tuple(float(word) for word in words[1:])
    except ValueError:
        box = ()
    if len(lines) != 1 or len(box) != 4 or not np.isfinite(box).all():
        raise ValueError(
            f"{path} holds {' / '.join(lines)!r}, expected one line: the image's name "
            "and left, top, right and bottom of the region in pixels."
        )
    good, ok, junk = (
        frozenset(_lines(os.path.join(folder, f"{name}_{part}.txt"))) for part in _PARTS
    )
    if not good | ok:
        raise ValueError(
            f"The query {name} of {folder} has no image to find: its _good.txt and "
            "_ok.txt are empty; give it one, or remove its files."
        )
    both = sorted((good | ok) & junk)
    if both:
        raise ValueError(
            f"The query {name} of {folder} has {both[0]} ({len(both)} image(s)) to "
            "find and in its _junk.txt, which is left out; take it from one of them."
        )
    return Query(name, words[0].removeprefix(_PREFIX), box, good | ok, junk)


def _lines(path):
    try:
        with tf.io.gfile.GFile(path) as file:
            lines = file.read().splitlines()
    except tf.errors.NotFoundError as error:
        raise ValueError(
            f"{path} is missing; every query has four files, ending in _query.txt, "
            "_good.txt, _ok.txt and _junk.txt (the last three may be empty)."
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is no text in UTF-8 ({error.reason} at byte {error.start}); save "
            "it as UTF-8."
        ) from error
    return [line.strip() for line in lines if line.strip()]


def average_precision(ranking, positives, junk=()):
    """Area under the precision-recall curve of one ranking.

    As `compute_ap` has it: junk is taken out of the ranking first; then every
    positive adds the trapezoid `(P(before it) + P(with it)) / 2 / positives`, where
    the precision before the first image is 1.

    Args:
        ranking: names, the most similar first, each once.
        positives: set of the names to find. All of them count, also those that the
            ranking does not hold.
        junk: set of the names to leave out; a name that is also positive is left out.

    Returns:
        float in [0, 1].

    Raises:
        ValueError: if there is nothing to find, or a name stands in the ranking twice.
    """
    if not positives:
        raise ValueError("The average precision needs one or more positives, got none.")
    if len(set(ranking)) != len(ranking):
        raise ValueError("The ranking holds a name twice; give every image once.")
    junk = set(junk)
    hits = np.array([name in positives for name in ranking if name not in junk], bool)
    found = np.cumsum(hits)
    precision = found / np.arange(1, len(hits) + 1)
    before = np.concatenate([[1.0], precision])[: len(hits)]
    return float(((before + precision) / 2)[hits].sum() / len(positives))


def score(queries, names, similarity):
    """The average precision of every query.

    Args:
        queries: of `Query`.
        names: of the images of the database, each once.
        similarity: float `(len(queries), len(names))`, larger for more alike. Of equal
            ones the image that comes first in `names` is ranked first.

    Returns:
        Dict of a query's name to its average precision. Their mean is the mAP.

    Raises:
        ValueError: if the shape is another, or a similarity is not finite.
    """
    similarity = np.asarray(similarity)
    if similarity.shape != (len(queries), len(names)):
        raise ValueError(
            f"similarity has shape {similarity.shape}, expected {len(queries)} queries "
            f"times {len(names)} images."
        )
    if not np.isfinite(similarity).all():
        raise ValueError(
            "A similarity is NaN or infinite, so nothing can be ranked; the encoder "
            "has diverged."
        )
    names = np.asarray(names)
    order = np.argsort(-similarity, axis=1, kind="stable")
    return {
        query.name: average_precision(names[row].tolist(), query.positives, query.junk)
        for query, row in zip(queries, order)
    }
