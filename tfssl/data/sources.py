"""Where images come from, behind one small interface.

A source knows how many images it has, what their pixels are, and either reads
image `i` inside a graph (random access: arrays, folders, small TFDS sets) or
yields all images in a fixed order (large TFDS sets, a `tf.data.Dataset`). Labels
are optional everywhere.
"""

import hashlib
import os

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging
from sklearn import datasets as sklearn_datasets

from tfssl.data import image_ops

_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
_KINDS = ("digits", "tfds:NAME", "tfds-dir:PATH", "folder:PATH or a path")
_MAX_VALUE = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}
# TFDS sets up to this size are kept in memory as encoded files: random access.
_MEMORY_BYTES = 1 << 30
_DIGITS_TRAIN = 1297


class Source:
    """Images with random access. Subclasses read one image inside a graph.

    Attributes:
        name: for logs and errors.
        num_images: int.
        channels: int.
        dtype: `"uint8"`, `"uint16"` or `"float32"` of decoded pixels.
        labels: int64 `(num_images,)`, -1 where unknown, or None.
        class_names: tuple of names by label, or None.
        image_size: `(height, width)` if all images share it, or None.
        encoded: whether `read` gives encoded files, to be decoded by the caller.
        random_access: whether `read` exists; else `stream` does.
    """

    random_access = True
    encoded = False

    def __init__(
        self, name, num_images, *, channels, dtype, labels, class_names, image_size=None
    ):
        if num_images < 1:
            raise ValueError(f"{name} holds no image; give at least one.")
        self.name = name
        self.num_images = num_images
        self.channels = channels
        self.dtype = dtype
        self.labels = None if labels is None else np.asarray(labels, np.int64)
        self.class_names = class_names
        self.image_size = image_size

    @property
    def max_value(self):
        """The largest pixel value: 255, 65535 or 1."""
        return _MAX_VALUE[self.dtype]

    def read(self, index):
        """Image `index` (int64 scalar tensor): pixels, or an encoded file."""
        raise NotImplementedError

    def decode(self, raw):
        """What `read` gave -> pixels `(height, width, channels)`."""
        if not self.encoded:
            return raw
        return image_ops.decode(raw, self.channels, tf.as_dtype(self.dtype))

    def describe(self, index):
        """What to call image `index` in a message."""
        return f"{self.name}[{index}]"

    def fingerprint(self):
        """SHA-256 that changes when the images or their labels do."""
        digest = hashlib.sha256()
        self._fingerprint(digest)
        if self.labels is not None:
            digest.update(self.labels.astype("<i8").tobytes())
        return digest.hexdigest()

    def _fingerprint(self, digest):
        raise NotImplementedError

    def subset(self, indices, name=None):
        """These images only, numbered from 0 in the given order."""
        return _Subset(self, np.asarray(indices, np.int64), name)


class _Subset(Source):
    def __init__(self, source, indices, name):
        if not source.random_access:
            raise ValueError(
                f"{source.name} is read in sequence and cannot be cut into parts; use "
                "a split of its own, or files in a folder."
            )
        if len(indices) and not 0 <= indices.min() <= indices.max() < source.num_images:
            raise ValueError(
                f"Indices from {indices.min()} to {indices.max()} received for "
                f"{source.name}, which has images 0 to {source.num_images - 1}."
            )
        super().__init__(
            name or f"{len(indices)} images of {source.name}",
            len(indices),
            channels=source.channels,
            dtype=source.dtype,
            labels=None if source.labels is None else source.labels[indices],
            class_names=source.class_names,
            image_size=source.image_size,
        )
        self.encoded = source.encoded
        self._source = source
        self._indices = indices

    def read(self, index):
        return self._source.read(tf.gather(tf.constant(self._indices), index))

    def describe(self, index):
        return self._source.describe(int(self._indices[index]))

    def _fingerprint(self, digest):
        digest.update(self._source.fingerprint().encode())
        digest.update(self._indices.astype("<i8").tobytes())


class ArraySource(Source):
    """Decoded images of one size, in memory.

    Args:
        images: `(n, height, width[, channels])`, uint8, uint16 or float in [0, 1].
        labels: int `(n,)` or None.
        name: for logs.
        class_names: tuple or None.
    """

    def __init__(self, images, labels=None, *, name="array", class_names=None):
        images = np.asarray(images)
        if images.ndim == 3:
            images = images[..., np.newaxis]
        if images.ndim != 4 or 0 in images.shape[1:]:
            raise ValueError(
                f"Images of shape {images.shape} received, expected (n, height, "
                "width) or (n, height, width, channels), none of them 0."
            )
        if images.dtype == np.float64:
            images = images.astype(np.float32)
        if images.dtype.name not in _MAX_VALUE:
            raise ValueError(
                f"Images of dtype {images.dtype} received, expected uint8, uint16 or "
                "float in [0, 1]."
            )
        if images.dtype == np.float32 and images.size:
            low, high = images.min(), images.max()
            if not (low >= 0.0 and high <= 1.0):
                raise ValueError(
                    f"Float images from {low:g} to {high:g} received, expected values "
                    "in [0, 1]; scale them, or give uint8."
                )
        _check_labels(labels, len(images), name)
        super().__init__(
            name,
            len(images),
            channels=images.shape[-1],
            dtype=images.dtype.name,
            labels=labels,
            class_names=class_names,
            image_size=images.shape[1:3],
        )
        self._images = images
        self._tensor = None

    def read(self, index):
        if self._tensor is None:
            with tf.init_scope(), tf.device("CPU:0"):
                self._tensor = tf.constant(self._images)
        return tf.gather(self._tensor, index)

    def _fingerprint(self, digest):
        digest.update(str(self._images.shape).encode())
        digest.update(np.ascontiguousarray(self._images).tobytes())


class FileSource(Source):
    """Image files, read when needed.

    Args:
        files: paths, in the order that numbers them.
        name: for logs.
        labels: int `(n,)` or None.
        class_names: tuple or None.
        channels: 1, 3 or 4.
        bit_depth: 8 or 16.
    """

    encoded = True

    def __init__(
        self, files, *, name, labels=None, class_names=None, channels=3, bit_depth=8
    ):
        _check_labels(labels, len(files), name)
        super().__init__(
            name,
            len(files),
            channels=channels,
            dtype="uint16" if bit_depth == 16 else "uint8",
            labels=labels,
            class_names=class_names,
        )
        self._files = np.asarray(files)
        self._tensor = None

    def read(self, index):
        if self._tensor is None:
            with tf.init_scope(), tf.device("CPU:0"):
                self._tensor = tf.constant(self._files)
        return tf.io.read_file(tf.gather(self._tensor, index))

    def describe(self, index):
        return str(self._files[index])

    def _fingerprint(self, digest):
        for path in self._files:
            size = tf.io.gfile.stat(str(path)).length
            digest.update(f"{os.path.basename(path)} {size}\n".encode())


class BytesSource(Source):
    """Encoded image files kept in memory.

    Args:
        files: list of `bytes`.
        names: what to call each, or None.
        **kwargs: see `Source`.
    """

    encoded = True

    def __init__(self, files, *, names=None, **kwargs):
        super().__init__(num_images=len(files), **kwargs)
        self._files = files
        self._names = names
        self._tensor = None

    def read(self, index):
        if self._tensor is None:
            with tf.init_scope(), tf.device("CPU:0"):
                self._tensor = tf.constant(self._files)
        return tf.gather(self._tensor, index)

    def describe(self, index):
        return self._names[index] if self._names else super().describe(index)

    def _fingerprint(self, digest):
        for file in self._files:
            digest.update(file)


class StreamSource(Source):
    """Images that come in sequence, always the same: a `tf.data.Dataset`.

    Args:
        dataset: finite and deterministic; dicts with `"image"` (pixels, or a string
            scalar for an encoded file) and optionally `"label"`.
        name: for logs.
        num_images: int, or None to count them once.
        channels: int, needed for encoded files.
        bytes_per_image: estimate, which bounds the shuffle buffer.
    """

    random_access = False

    def __init__(
        self,
        dataset,
        *,
        name,
        num_images=None,
        channels=None,
        class_names=None,
        bit_depth=8,
        bytes_per_image=None,
    ):
        dataset, spec = _as_dicts(dataset)
        image = spec["image"]
        self.encoded = image.dtype == tf.string
        if num_images is None:
            num_images = _count(dataset, name)
        if self.encoded:
            channels = channels or 3
            dtype = "uint16" if bit_depth == 16 else "uint8"
            size = None
        else:
            if image.shape.rank != 3 or image.shape[-1] is None:
                raise ValueError(
                    f"{name} has images of shape {image.shape}, expected (height, "
                    "width, channels) with known channels; set_shape in your map."
                )
            channels, dtype = image.shape[-1], image.dtype.name
            size = tuple(image.shape[:2]) if None not in image.shape[:2] else None
        if dtype not in _MAX_VALUE:
            raise ValueError(
                f"{name} has images of dtype {dtype}, expected uint8, uint16, float32 "
                "in [0, 1], or a string with the encoded file."
            )
        super().__init__(
            name,
            num_images,
            channels=channels,
            dtype=dtype,
            labels=None,
            class_names=class_names,
            image_size=size,
        )
        self.has_labels = "label" in spec
        self._dataset = dataset
        self._labels = None
        pixels = int(
            np.prod([n or 256 for n in image.shape.as_list() or [256, 256, 3]])
        )
        width = 1 if self.encoded else image.dtype.size
        self.bytes_per_image = bytes_per_image or (
            100_000 if self.encoded else pixels * width
        )

    @property
    def labels(self):
        """Labels, found by one pass over the data when first asked for."""
        if self._labels is None and getattr(self, "has_labels", False):
            found = self._dataset.map(lambda e: e["label"]).as_numpy_iterator()
            self._labels = np.fromiter((int(v) for v in found), np.int64)
        return self._labels

    @labels.setter
    def labels(self, value):
        self._labels = value

    def stream(self):
        """Dataset of `(index, raw image)`, in the source's own order."""
        return self._dataset.enumerate().map(lambda i, e: (i, e["image"]))

    def _fingerprint(self, digest):
        digest.update(f"{self.name} {self.num_images}".encode())


def open_source(
    data,
    *,
    split=None,
    channels=None,
    labels="auto",
    bit_depth=8,
    data_dir=None,
):
    """Opens images, wherever they are.

    Args:
        data: one of
            `"digits"`: scikit-learn's 1,797 handwritten digits, 32×32, one channel;
            `"tfds:NAME"`: a TFDS dataset, `"tfds-dir:PATH"`: a prepared one;
            `"folder:PATH"` or a path: image files, in any depth of folders;
            an array `(n, height, width[, channels])`, or a pair with its labels;
            a `tf.data.Dataset` of images, or of dicts with `"image"` and `"label"`;
            a `Source`, which is returned as it is.
        split: part of TFDS data (default `"train"`) or of the digits (`"train"`, the
            default, `"test"` or `"all"`).
        channels: 1, 3 or 4, what files are decoded to; default 3 for files, the
            data's own otherwise.
        labels: `"auto"`: where the data has true ones; `"none"`; `"folders"`: the
            name of the first folder level is the class.
        bit_depth: 8 or 16, of files.
        data_dir: where TFDS finds prepared data.

    Returns:
        A `Source`.

    Raises:
        ValueError: for data that is missing, empty or of an unknown kind.
    """
    if labels not in ("auto", "none", "folders"):
        raise ValueError(
            f"labels={labels!r} received, expected 'auto', 'none' or 'folders'."
        )
    if bit_depth not in (8, 16):
        raise ValueError(f"bit_depth={bit_depth!r} received, expected 8 or 16.")
    if isinstance(data, Source):
        return data
    source = _open(data, split, channels, labels, bit_depth, data_dir)
    if labels == "none":
        source.labels = None
        source.has_labels = False
    if channels is not None and channels != source.channels:
        raise ValueError(
            f"channels={channels} received, but {source.name} has {source.channels}; "
            "leave channels out for arrays and datasets."
        )
    return source


def _open(data, split, channels, labels, bit_depth, data_dir):
    if isinstance(data, tf.data.Dataset):
        return StreamSource(
            data, name="tf.data", channels=channels, bit_depth=bit_depth
        )
    if isinstance(data, tuple) and len(data) == 2:
        return ArraySource(*data)
    if isinstance(data, np.ndarray) or tf.is_tensor(data):
        return ArraySource(data)
    if not isinstance(data, str | os.PathLike):
        raise ValueError(
            f"data of type {type(data).__name__} received, expected one of "
            f"{', '.join(_KINDS)}, arrays, a tf.data.Dataset or a Source."
        )
    data = os.fspath(data)
    if data == "digits":
        return digits(split or "train")
    kind, _, rest = data.partition(":")
    if kind in ("tfds", "tfds-dir") and rest:
        return _tfds(kind, rest, split or "train", channels, bit_depth, data_dir)
    path = rest if kind == "folder" and rest else data
    if not tf.io.gfile.isdir(path):
        raise ValueError(
            f"data={data!r} is no folder and none of {', '.join(_KINDS)}; check the "
            "path."
        )
    return folder(
        path, labels=labels, channels=channels or 3, bit_depth=bit_depth, split=split
    )


def digits(split="train"):
    """scikit-learn's handwritten digits, 8×8 enlarged to 32×32 uint8.

    Args:
        split: `"train"` (1,297 images), `"test"` (500) or `"all"`; the same
            class-balanced split every time.
    """
    if split not in ("train", "test", "all"):
        raise ValueError(
            f"split={split!r} received for digits, expected 'train', 'test' or 'all'."
        )
    data = sklearn_datasets.load_digits()
    # Bicubic, 4 x: the strokes stay strokes. Values 0 to 16.
    images = tf.image.resize(data.images[..., np.newaxis], (32, 32), "bicubic")
    images = np.clip(np.round(images.numpy() * (255 / 16)), 0, 255).astype(np.uint8)
    order = _balanced_order(data.target, seed=0)
    rows = {
        "train": order[:_DIGITS_TRAIN],
        "test": order[_DIGITS_TRAIN:],
        "all": np.arange(len(images)),
    }[split]
    return ArraySource(
        images[rows],
        data.target[rows],
        name="digits" if split == "all" else f"digits/{split}",
        class_names=tuple(str(digit) for digit in range(10)),
    )


def _balanced_order(labels, seed):
    """A shuffle of which every leading part has the classes in equal shares."""
    rank = np.zeros(len(labels))
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        # A seed cannot be negative; -1 is the label of unlabelled images.
        rng = np.random.default_rng((seed, int(label) % 2**32))
        rank[rng.permutation(rows)] = (np.arange(len(rows)) + rng.uniform()) / len(rows)
    return np.argsort(rank, kind="stable")


def folder(path, *, labels="auto", channels=3, bit_depth=8, split=None):
    """Image files of a folder, flat or nested, sorted by path.

    Files are taken by their ending; what they hold is found out when they are
    decoded. Hidden files, and links that lead out of the folder, are left out.

    Raises:
        ValueError: if there is no image file, or `labels="folders"` finds none.
    """
    if split is not None:
        raise ValueError(
            f"split={split!r} received for the folder {path}, which has no splits; "
            "give the sub-folder as data, or use validation_fraction."
        )
    files = _image_files(path)
    if not files:
        raise ValueError(
            f"{path} holds no image file ({', '.join(_EXTENSIONS)}); check the path."
        )
    names, ids = None, None
    if labels == "folders":
        tops = [os.path.relpath(f, path).split(os.sep)[0] for f in files]
        if any(os.sep not in os.path.relpath(f, path) for f in files):
            raise ValueError(
                f"labels='folders' received, but {path} holds image files outside of "
                "class folders; use one folder per class, or labels='none'."
            )
        names = tuple(sorted(set(tops)))
        ids = np.searchsorted(names, tops)
    return FileSource(
        files,
        name=path,
        labels=ids,
        class_names=names,
        channels=channels,
        bit_depth=bit_depth,
    )


def _image_files(path):
    root = os.path.realpath(path) if "://" not in path else path
    found, outside = [], 0
    for directory, folders, files in tf.io.gfile.walk(path):
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and not _leads_up(directory, name)
        ]
        for name in files:
            if name.startswith(".") or not name.lower().endswith(_EXTENSIONS):
                continue
            file = os.path.join(directory, name)
            if "://" not in path:
                real = os.path.realpath(file)
                if os.path.commonpath([real, root]) != root:
                    outside += 1
                    continue
            found.append(file)
    if outside:
        logging.warning("%s: %d links out of the folder were left out.", path, outside)
    return sorted(found)


def _leads_up(directory, name):
    """Whether a folder is a link to one that it lies in, a walk without end."""
    path = os.path.join(directory, name)
    if "://" in path or not os.path.islink(path):
        return False
    real = os.path.realpath(path)
    return os.path.commonpath([real, os.path.realpath(directory)]) == real


def _tfds(kind, name, split, channels, bit_depth, data_dir):
    try:
        if kind == "tfds":
            builder = tfds.builder(name, data_dir=data_dir)
            if not builder.info.splits:
                builder.download_and_prepare()
        else:
            builder = tfds.builder_from_directory(name)
    except (tfds.core.registered.DatasetNotFoundError, OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise ValueError(f"TFDS cannot open {name!r}: {first}") from error
    try:
        info = builder.info.splits[split]
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"split={split!r} received for TFDS {name}, which has "
            f"{', '.join(builder.info.splits)}."
        ) from error
    features = builder.info.features
    if "image" not in features:
        raise ValueError(
            f"TFDS {name} has no feature 'image' but {', '.join(features)}; map it to "
            "a tf.data.Dataset of images yourself."
        )
    # Always in the same order: the place in it is the image's number.
    dataset = builder.as_dataset(
        split=split,
        shuffle_files=False,
        decoders={"image": tfds.decode.SkipDecoding()},
        read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
    )
    labelled = "label" in features
    channels = channels or features["image"].shape[-1] or 3
    class_names = getattr(features["label"], "names", None) if labelled else None
    size = info.num_bytes or 0
    shared = dict(
        name=f"tfds:{name}/{split}",
        channels=channels,
        class_names=tuple(class_names) if class_names else None,
    )
    keys = ("image", "label") if labelled else ("image",)
    dataset = dataset.map(lambda e: {key: e[key] for key in keys})
    if size > _MEMORY_BYTES:
        return StreamSource(
            dataset,
            num_images=info.num_examples,
            bit_depth=bit_depth,
            bytes_per_image=size // max(1, info.num_examples),
            **shared,
        )
    elements = list(dataset.as_numpy_iterator())
    return BytesSource(
        [e["image"] for e in elements],
        dtype="uint16" if bit_depth == 16 else "uint8",
        labels=[e["label"] for e in elements] if labelled else None,
        **shared,
    )


def holdout(source, *, fraction=0.1, seed=0):
    """Cuts a source into training and validation images.

    Class-balanced where there are labels; the same cut for the same seed.

    Args:
        source: with random access.
        fraction: in (0, 1), share of the validation images.
        seed: int.

    Returns:
        `(train, validation)`, two sources.

    Raises:
        ValueError: if one of them would be empty, or the source is sequential.
    """
    count = round(fraction * source.num_images)
    if not 0 < fraction < 1 or not 0 < count < source.num_images:
        raise ValueError(
            f"fraction={fraction} of {source.num_images} images received for "
            "validation; expected a share in (0, 1) that leaves images on both sides."
        )
    labels = source.labels
    if labels is None:
        labels = np.zeros(source.num_images, np.int64)
    order = _balanced_order(labels, seed)
    return (
        source.subset(np.sort(order[count:]), f"{source.name}[training part]"),
        source.subset(np.sort(order[:count]), f"{source.name}[validation part]"),
    )


def _check_labels(labels, count, name):
    if labels is not None and np.shape(labels) != (count,):
        raise ValueError(
            f"{name} has {count} images, but labels of shape {np.shape(labels)}; give "
            "one per image."
        )


def _as_dicts(dataset):
    spec = dataset.element_spec
    if isinstance(spec, dict) and "image" in spec:
        keys = [key for key in ("image", "label") if key in spec]
        dataset = dataset.map(lambda e: {key: e[key] for key in keys})
    elif isinstance(spec, tuple) and len(spec) == 2:
        dataset = dataset.map(lambda image, label: {"image": image, "label": label})
    elif isinstance(spec, tf.TensorSpec):
        dataset = dataset.map(lambda image: {"image": image})
    else:
        raise ValueError(
            f"A dataset of {spec} received, expected images, (image, label) pairs, or "
            "dicts with 'image' and optionally 'label'."
        )
    return dataset, dataset.element_spec


def _count(dataset, name):
    count = int(dataset.cardinality().numpy())
    if count == tf.data.INFINITE_CARDINALITY:
        raise ValueError(f"{name} repeats for ever; remove its repeat().")
    if count == tf.data.UNKNOWN_CARDINALITY:
        logging.info("Counting the images of %s once.", name)
        count = int(dataset.reduce(np.int64(0), lambda n, _: n + 1).numpy())
    return count
