"""From a source to batches of training views.

Images come in the stateless order of `order.Order`, and the views' random
numbers are drawn per global batch under (seed, batch), of which every worker slices
its own rows. So any worker can start anywhere, a resumed run meets the next image
exactly, and neither threads nor the number of workers change a view.

Large views are made image by image. Small ones (up to 64 pixels) are made in
chunks of a batch, where starting an operation costs more than its arithmetic.
"""

import tensorflow as tf
from absl import logging

from tfssl import checks
from tfssl.data import bad_files as bad_files_lib
from tfssl.data import order as order_lib
from tfssl.data import passes, running, service
from tfssl.data import views as views_lib
from tfssl.data.bad_files import BadFiles
from tfssl.data.each_once import labeled
from tfssl.data.views import applying, batched, device, recipes, specs, tiles

__all__ = ["BadFiles", "labeled", "multiview", "steps_per_epoch"]

# Images of a chunk: its float planes should stay in a core's cache.
_CHUNK = 32


def steps_per_epoch(source, batch_size):
    """Whole batches in an epoch.

    Raises:
        ValueError: if there is not even one.
    """
    checks.whole({"batch_size": batch_size}, "batch_size")
    steps = source.num_images // batch_size
    if not steps:
        raise ValueError(
            f"batch_size={batch_size} received, but {source.name} has only "
            f"{source.num_images} images; use a batch size of at most that."
        )
    return steps


@running.as_written
def multiview(
    source,
    recipe,
    *,
    batch_size,
    seed=0,
    start=0,
    sampling=None,
    repeats=1,
    augment=True,
    augment_on="host",
    images_on="host",
    shard=(0, 1),
    bad_files=None,
    with_labels=False,
    data_service=None,
    num_parallel_calls=None,
):
    """The training dataset of a source: endless batches of views.

    Args:
        source: a `sources.Source`.
        recipe: sequence of `views.View`. Steps that need RGB are left out for other
            than three channels, with one logged line.
        batch_size: int, images of the GLOBAL batch.
        seed: int, of order and views.
        start: int, stream position of the first image; a resumed run passes the
            `position` it has reached.
        sampling: int64 `(steps_per_epoch * batch_size,)`, the images of every epoch in
            order (DeepCluster draws them cluster by cluster); None shuffles all images
            anew in every epoch. Needs random access.
        repeats: int, how often each image of a batch stands in it, every time with
            views of its own (repeated augmentation). It divides the batch; an epoch
            has so many times fewer images. More than 1 needs random access.
        augment: False gives the evaluation preprocessing at each view's size: all
            views of an image (of one size) are alike.
        augment_on: `"host"`, or `"device"`: the views end with the resize, in the
            dtype of the images, and `views.finish` does the rest, see there. Without
            `augment` there is no rest.
        images_on: `"host"`, or `"device"` with `augment_on="device"`: the images lie
            there already (`Method.hold_images`), and the views are all made there, by
            `views.finish`. Needs images of one size of at most 64 pixels, decoded in
            memory, views of as much, and a recipe without affine maps and RandAugment.
        shard: `(worker, workers)`; this worker's rows of every global batch.
        bad_files: `BadFiles` that collects unreadable images; None makes one with
            the default limit.
        with_labels: add `"label"`, int64 `(rows,)`, for supervised training; for
            images with any number of classes int8 `(rows, classes)`, of 1, 0 and -1.
        data_service: None, or the addresses of tf.data services that make the views,
            see `service`. They must find the images under the same paths (arrays
            travel with the pipeline, up to 2 GB). The batches are the same and in the
            same order, except that with several addresses the rows that move up for
            an unreadable image come from the next batch of the same address.
        num_parallel_calls: parallel maps; None takes two per core, or as many as the
            data services find best. The result does not depend on it.

    Returns:
        `tf.data.Dataset` of `{"views": {"view_0": float32 (rows, size, size,
        channels), …}, "index": int64 (rows,), "position": int64 (rows,)}` with
        `rows = batch_size / workers`. A view in tiles (`views.Tiles`) is (rows, tiles,
        size, size, channels). Unreadable images are left out, and the rows
        after them move up. With `augment_on="device"` views have the dtype of the
        images, and `"numbers"`, float32 (rows, views, n), goes with them; with
        `images_on="device"` there are `"numbers"` of the source and no views.

    Raises:
        ValueError: if the batch is larger than the source or does not divide over
            the workers, the recipe is empty, no image can be read, or the images
            cannot lie on the device.
    """
    worker, workers = shard
    if batch_size % workers:
        raise ValueError(
            f"batch_size={batch_size} received for {workers} workers; use a multiple."
        )
    if with_labels and source.known_labels is None:
        raise ValueError(f"with_labels=True received, but {source.name} has no labels.")
    steps_per_epoch(source, batch_size)
    for name, place in ("augment_on", augment_on), ("images_on", images_on):
        checks.one_of({name: place}, name, device.PLACES)
    views_lib.check(recipe)
    recipe = specs.for_channels(recipe, source.channels)
    _log_skipped(recipe, source)
    bad_files = bad_files or BadFiles()
    remote = bool(data_service)
    if not remote:
        source = source.ready()
    parallel = num_parallel_calls or (
        tf.data.AUTOTUNE if remote else running.parallel()
    )

    work = {"host": "views", "device": "begun"}[augment_on] if augment else "plain"
    if augment and images_on == "device":
        device.check_images(source, recipe, augment_on, data_service)
        work = "numbers"
    addresses = service.addresses(data_service) if data_service else [None]
    hands = []
    for number, address in enumerate(addresses):
        hand = (number, len(addresses))
        order = order_lib.Order(
            source,
            batch_size,
            seed,
            start,
            shard,
            sampling=sampling,
            repeats=repeats,
            hand=hand,
        )
        made = _batches(order, recipe, work, bad_files, parallel)
        if address:
            made = service.made_at(address, made.with_options(running.options(remote)))
        if source.encoded:
            made = bad_files_lib.record_gaps(
                made,
                order.first,
                order.image,
                source,
                bad_files,
                readable=service.NOT_THERE if address else "",
            )
        hands.append(made)
    dataset = service.in_turn(hands)

    def as_dict(_, position, index, made):
        batch = {"index": index, "position": position}
        if work == "begun":
            batch[device.NUMBERS], made = made
        if work in ("begun", "views"):
            made = tiles.stacked(made, recipe, axis=1)
        if work == "numbers":
            batch[device.NUMBERS] = {device.mark(source): made}
        else:
            batch["views"] = {f"view_{i}": view for i, view in enumerate(made)}
        if with_labels:
            batch["label"] = tf.gather(tf.constant(source.known_labels), index)
        return batch

    dataset = dataset.map(as_dict).prefetch(running.AHEAD)
    return dataset.with_options(running.options(remote))


def _batches(order, recipe, work, bad_files, parallel):
    """Batches of `(k, position, index, made)` of readable images, without Python.

    What is made depends on `work`: `"views"` of the flat recipe; as `"begun"` the
    host's part of them, see `device.begin`; only the `"numbers"` that the device makes
    them by; or `"plain"` views, without augmentation.
    """
    source, small = order.source, batched.is_small(recipe)
    if work == "plain":
        return _plain(order, recipe, bad_files, parallel)
    if work == "numbers":
        return order.batches(_draw(order, recipe, 1.0))
    from_stack = batched.suits(source, recipe)
    recipe = tiles.flat(recipe)
    if from_stack:
        return _of_arrays(order, recipe, work, parallel)
    if small and work == "views":
        return _small(order, recipe, bad_files, parallel)
    return _large(order, recipe, work, bad_files, parallel)


def _log_skipped(recipe, source):
    skipped = views_lib.skipped_steps(recipe, source.channels)
    if skipped:
        logging.info(
            "%s has %d channels: %s need RGB and are left out.",
            source.name,
            source.channels,
            ", ".join(skipped),
        )


def _draw(order, recipe, white):
    """Function of a batch's number: the packed numbers of its images."""
    channels = order.source.channels

    def draw(number):
        numbers = views_lib.sample(
            recipe,
            batch=order.batch_size,
            channels=channels,
            seed=order.seed,
            step=number,
        )
        return views_lib.pack(numbers, recipe, channels, white)

    return draw


def _plain(order, recipe, bad_files, parallel):
    """As `_batches`, without augmentation."""
    source = order.source
    paths = [recipes.preprocessing_of_view(view, source) for view in recipe]

    def make(raw, _):
        image = source.decode(raw, max(path.side for path in paths))
        return tuple(
            tiles.central(path.apply(image), view) for path, view in zip(paths, recipe)
        )

    def nothing(_):
        return tf.zeros([order.batch_size, 1])

    return _images(order, nothing, order.rows, make, bad_files, parallel)


def _large(order, recipe, work, bad_files, parallel):
    """As `_batches`: views made image by image, each in one parallel call."""
    source = order.source
    here = work == "views"

    def make(raw, packed):
        image, crops = _decoded(source, raw, packed, recipe)
        apply = views_lib.apply_packed if here else device.begin
        return apply(packed, image, recipe, crops)

    draw = _draw(order, recipe, source.max_value if here else 1.0)
    return _images(order, draw, order.rows, make, bad_files, parallel)


def _of_arrays(order, recipe, work, parallel):
    """As `_batches`: views of small arrays, made in chunks."""
    source = order.source
    stacked, size = source.stacked, _chunk_size(order.rows)

    def make(k, position, index, packed):
        images = tf.ensure_shape(
            stacked(index), [size, *source.image_size, source.channels]
        )
        resized = batched.geometry(images, packed, recipe)
        if work == "views":
            made = batched.finish(resized, packed, recipe, source.max_value)
        else:
            made = device.begin_batch(packed, resized, recipe, images.dtype)
        return k, position, index, made

    batches = order.batches(_draw(order, recipe, 1.0))
    chunks = batches.map(lambda *parts: _cut(parts, size)).unbatch()
    return _whole(chunks.map(make, num_parallel_calls=parallel), size, order)


def _small(order, recipe, bad_files, parallel):
    """As `_batches`: views resized image by image and finished in chunks."""
    source = order.source
    size = _chunk_size(order.rows)

    def resize(raw, packed):
        image, crops = _decoded(source, raw, packed, recipe)
        coins = views_lib.coins_of(packed, recipe, source.channels)
        return packed, applying.resized(coins, packed, image, recipe, crops)

    def finish(k, position, index, made):
        packed, resized = made
        made = batched.finish(resized, packed, recipe, source.max_value)
        return k, position, index, made

    draw = _draw(order, recipe, 1.0)
    chunks = _images(order, draw, size, resize, bad_files, parallel)
    return _whole(chunks.map(finish, num_parallel_calls=parallel), size, order)


def _whole(chunks, size, order):
    """Batches of all rows of chunks of `size`."""
    if size == order.rows:
        return chunks
    return chunks.batch(order.rows // size, drop_remainder=True).map(_joined)


def _cut(parts, size):
    """`(rows, …)` -> `(rows / size, size, …)`, in every tensor."""
    return tuple(tf.reshape(x, [-1, size, *x.shape[1:]]) for x in parts)


def _joined(*parts):
    """`(count, size, …)` -> `(count * size, …)`, in every tensor."""

    def join(x):
        count = None if x.shape[0] is None else x.shape[0] * x.shape[1]
        return tf.ensure_shape(tf.reshape(x, [-1, *x.shape[2:]]), [count, *x.shape[2:]])

    return tf.nest.map_structure(join, parts)


def _chunk_size(rows):
    """The divisor of `rows` nearest below the wanted chunk, if it is of any use."""
    fits = [n for n in range(_CHUNK // 4, _CHUNK + 1) if rows % n == 0]
    return max(fits, default=rows)


def _decoded(source, raw, packed, recipe):
    """`(image, crops)`: the part of an image that holds all crops, and where."""

    def crops_in(height, width):
        return views_lib.boxes(packed, recipe, height, width)

    sizes = [view.untiled().size for view in recipe]
    return source.decode_window(raw, crops_in, sizes)


def _images(order, draw, size, make, bad_files, parallel):
    """`(k, position, index, make(raw, numbers))` of readable images, `size` each."""
    source = order.source
    numbers = order.batches(draw).unbatch()
    if source.random_access:

        def work(k, position, index, packed):
            return k, position, index, make(source.read(index), packed)

        elements = numbers.map(work, num_parallel_calls=parallel)
    else:

        def join(of_place, of_image):
            k, position, _, packed = of_place
            index, raw = of_image
            k = passes.numbered(k, index)
            return k, position, index, make(raw, packed)

        both = tf.data.Dataset.zip(numbers, order.stream())
        elements = both.map(join, num_parallel_calls=parallel)
    if not source.encoded:
        return elements.batch(size, drop_remainder=True)

    def use(raw):
        return make(raw, draw(tf.constant(0, tf.int64))[0])

    bad_files_lib.check(source, bad_files, use)
    return bad_files_lib.readable(elements, size, order.first, source)
