"""What a batch must be, by its structure and its size, before a step is made.

Nothing here costs a step anything on the device.
"""

import tensorflow as tf

from tfssl.data.views import device

_NUMBERS = ("index", "position")


def taken(method, batch):
    """A batch as methods take it.

    Args:
        method: a `Method`, which is named where the batch is refused.
        batch: what came of the data.

    Returns:
        The batch, its whole numbers int64, and views of float64 float32.

    Raises:
        ValueError: for another structure, or other dtypes.
    """
    wrong = _wrong_with(method, batch)
    if wrong:
        label = ', "label": …' if method.with_labels else ""
        raise ValueError(
            f"{type(method).__name__} received {wrong}, but takes a dict "
            '{"views": {"view_0": floats (batch, height, width, channels), …}, '
            f'"index": integers (batch,), "position": integers (batch,){label}}}; make '
            "it with tfssl.data.multiview."
        )
    views = batch.get("views")
    if views is not None and device.NUMBERS not in batch:
        batch = {**batch, "views": {key: _single(view) for key, view in views.items()}}
    return {**batch, **{key: tf.cast(batch[key], tf.int64) for key in _NUMBERS}}


def _wrong_with(method, batch):
    """What is wrong with a batch, in words, or None."""
    if not isinstance(batch, dict):
        return f"a batch that is a {type(batch).__name__}"
    begun = device.NUMBERS in batch  # Views will be made of these.
    wanted = [*([] if begun else ["views"]), *_NUMBERS]
    wanted += ["label"] if method.with_labels else []
    missing = [repr(key) for key in wanted if key not in batch]
    if missing:
        return f"a batch without {' and '.join(missing)}"
    for key in _NUMBERS:
        if not batch[key].dtype.is_integer or batch[key].shape.rank != 1:
            found = f"{batch[key].dtype.name} of shape {batch[key].shape}"
            return f"a batch whose {key!r} is {found}"
    return None if begun else _wrong_with_views(batch["views"])


def _wrong_with_views(views):
    if not isinstance(views, dict):
        return f"views that are a {type(views).__name__}"
    if set(views) != {f"view_{i}" for i in range(len(views))}:
        return f"views with the names {', '.join(map(repr, views))}"
    for name, view in views.items():
        if not view.dtype.is_floating:
            return f"a {name} of {view.dtype.name}"
    return None


def _single(view):
    return tf.cast(view, tf.float32) if view.dtype == tf.float64 else view


def _stored(method):
    """`num_images` of a method that stores something of each image, or None."""
    without = getattr(method, "banks", None) == []  # As CMC may be.
    return None if without else getattr(method, "num_images", None)


def source_fits(method, source):
    """Raises `ValueError` for a source of more images than `method` stores."""
    most = _stored(method)
    if most is not None and source.num_images > most:
        raise ValueError(
            f"num_images={most} received, but {source.name} has {source.num_images} "
            f"images; give {type(method).__name__} num_images={source.num_images}."
        )


def known_images(method, batch):
    """Operations that fail for the number of an image that `num_images` does not have.

    They run on the host, before the step: compiled by XLA, or on a GPU, a gather takes
    another image instead. Where a strategy has the batch on its devices they would wait
    for these, and there are none: see `CheckedOnHost`.

    Args:
        method: a `Method`.
        batch: of all replicas.

    Returns:
        List of operations.
    """
    if not isinstance(batch, dict) or _distributed(method):
        return []
    return _known(method, batch.get("index", tf.zeros([0], tf.int64)))


def _distributed(method):
    with method.distribute_strategy.scope():
        return tf.distribute.has_strategy()


def _known(method, index):
    """As `known_images`, of the numbers alone."""
    most = _stored(method)
    if most is None:
        return []
    told = (
        f"{type(method).__name__} has num_images={most}, but a batch has other numbers "
        f"in 'index' than 0 to {most - 1}; give the method as many images as the data "
        "have."
    )
    with tf.device("CPU:0"):
        right = tf.reduce_all((index >= 0) & (tf.cast(index, tf.int64) < most))
        return [tf.debugging.Assert(right, [told, index], summarize=8)]


class CheckedOnHost:
    """Mix-in before `keras.Model`: what a strategy is to distribute is checked before.

    That is a dataset as `fit` and `evaluate` take it. One that is distributed already
    cannot be changed; `check_source` looks at the images that it is made of.
    """

    def fit(self, x=None, *args, **kwargs):
        """As `keras.Model.fit`."""
        if isinstance(x, tf.data.Dataset) and not args:
            # A dataset has an order of its own; Keras warns where it shall shuffle it.
            kwargs.setdefault("shuffle", False)
        return super().fit(_checked(self, x), *args, **kwargs)

    def evaluate(self, x=None, *args, **kwargs):
        """As `keras.Model.evaluate`."""
        return super().evaluate(_checked(self, x), *args, **kwargs)


def _checked(method, data):
    """The same data, that fails for images that a method does not have."""
    if _stored(method) is None or not isinstance(data, tf.data.Dataset):
        return data
    spec = data.element_spec
    numbered = isinstance(spec, dict) and isinstance(spec.get("index"), tf.TensorSpec)
    if not numbered or not spec["index"].dtype.is_integer or not _distributed(method):
        return data

    def check(batch):
        with tf.control_dependencies(_known(method, batch["index"])):
            return {**batch, "index": tf.identity(batch["index"])}

    return data.map(check)


def single(method, name, batch, others):
    """Raises `ValueError` unless `name` (`train_on_batch`) can take what was given."""
    if not isinstance(batch, dict) or any(other is not None for other in others):
        raise ValueError(
            f"{name} of {type(method).__name__} takes one batch of the data set that "
            "fit takes, a dict, and nothing beside it, but a "
            f"{type(batch).__name__} was received"
            f"{' with more' if isinstance(batch, dict) else ''}; give "
            "next(iter(dataset))."
        )
    count = method.distribute_strategy.num_replicas_in_sync
    if count > 1 or method.steps_per_execution > 1:
        raise ValueError(
            f"{name} runs one step on one replica, but there are {count} replicas "
            f"and steps_per_execution={method.steps_per_execution}; use fit or "
            "evaluate."
        )


def of_several(method, global_batch, why):
    """Raises `ValueError` for batches of one image.

    Args:
        method: a `Method`, which is named.
        global_batch: int, images of a step.
        why: what it does with the others, in words.
    """
    if global_batch < 2:
        raise ValueError(
            f"batch_size={global_batch} received, but {type(method).__name__} {why}; "
            "give 2 or more."
        )
