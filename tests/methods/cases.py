"""Small forms of every method, which the contract tests train.

A form must not depend on chance: the encoder has no dropout, and batch norm uses
the statistics of all replicas.
"""

import keras
import numpy as np
import tensorflow as tf

from tfssl import data, methods, models, optimizers
from tfssl.methods import classification, distillation
from tfssl.models import norms
from tfssl.training import strategy as strategies

BATCH = 16
SIZE = 16
STEPS = 3

# Images of the data that the clustering methods know of.
_IMAGES = 8 * BATCH

# Methods by the keys of CASES; those that learn from labels are no key of METHODS.
KINDS = methods.METHODS | {
    "classification": classification.Classification,
    "distillation": distillation.Distillation,
}

# Name of the case -> (key of KINDS, arguments of the method).
CASES = {
    "classification": (
        "classification",
        dict(
            class_names=("a", "b", "c"),
            label_smoothing=0.1,
            class_weights=(1.0, 2.0, 0.5),
            mixup=0.4,
            cutmix=1.0,
            averaging=0.9,
        ),
    ),
    "classification_multilabel": (
        "classification",
        dict(class_names=("a", "b", "c"), multilabel=True, label_smoothing=0.1),
    ),
    "distillation": (
        "distillation",
        dict(class_names=tuple("abcdefg"), label_weight=0.3, temperature=0.5),
    ),
    "simclr": ("simclr", dict(temperature=0.5, projection_dim=16)),
    "simclr_memory": (
        "simclr",
        # A wide head: small gradients, which do not overflow float16 for long.
        dict(
            temperature=0.3,
            projection_hidden=128,
            projection_dim=16,
            queue_size=40,
            momentum=0.9,
        ),
    ),
    "byol": (
        "byol",
        dict(projection_hidden=32, projection_dim=16, momentum=0.9, total_steps=50),
    ),
    "cpc": (
        "cpc",
        dict(
            embedding_dim=32,
            embedding_scale=1.0,
            # TensorFlow adds up a chain of residual blocks in another order in a loop.
            context_blocks=1,
            context_hidden=16,
            # Not too much of it, for what is to be learned by heart.
            augmentation={
                "crop": 7,
                "primitives": 0,
                "histogram": 0.0,
                "jitter": 0.3,
                "gray": 0.1,
                "color_drop": 0.1,
            },
        ),
    ),
    "moco_v1": ("moco", dict(version=1, momentum=0.9, queue_size=40)),
    "moco_v2_symmetric": (
        "moco",
        dict(version=2, symmetric=True, momentum=0.9, queue_size=72),
    ),
    "moco_v3": (
        "moco",
        dict(
            version=3,
            projection_hidden=32,
            projection_dim=16,
            momentum=0.9,
            total_steps=50,
        ),
    ),
    "swav": (
        "swav",
        dict(
            num_prototypes=12,
            projection_hidden=32,
            projection_dim=16,
            queue_size=24,
            queue_epoch=0,
            freeze_epochs=0,
        ),
    ),
    "deepcluster": (
        "deepcluster",
        dict(num_images=_IMAGES, num_clusters=6, pca_components=8),
    ),
    "deepcluster_v2": (
        "deepcluster_v2",
        dict(
            num_images=_IMAGES,
            num_clusters=(6, 5, 4),
            projection_hidden=32,
            projection_dim=16,
        ),
    ),
    "feature_distillation": ("feature_distillation", dict(projection_hidden=12)),
    "feature_distillation_map": (
        "feature_distillation",
        dict(teacher_layer="map", smooth_l1=0.5),
    ),
}
# What a method asks of the encoder's batch norm; the others get "global".
NORMS = {
    "moco_v1": dict(statistics="split", group_size=4),
    "moco_v2_symmetric": dict(statistics="split", group_size=4),
}


# Sizes of the views, where they are not two of SIZE.
VIEWS = {
    "swav": (SIZE, SIZE, SIZE // 2, SIZE // 2),
    "classification": (SIZE,),
    "classification_multilabel": (SIZE,),
    "cpc": (SIZE,),
    "distillation": (SIZE,),
    "deepcluster": (SIZE,),
    "deepcluster_v2": (SIZE, SIZE, SIZE // 2),
    "feature_distillation": (SIZE, SIZE // 2),
    "feature_distillation_map": (SIZE,),
}

# True classes of so many images, for the methods that learn from them.
LABELS = {
    "classification": lambda rng, count: rng.integers(0, 3, count),
    "classification_multilabel": lambda rng, count: rng.integers(-1, 2, (count, 3)),
    "distillation": lambda rng, count: rng.integers(-1, 7, count),
}


def tiny_encoder(statistics="global", group_size=None):
    """Two convolutions with batch norm: shallow, so that rounding stays small.

    And smooth: among the many inputs of a ReLU one lies within a rounding of its kink,
    and the gradient then depends on the order in which the processor adds.
    """
    inputs = keras.Input((None, None, 3))
    x = inputs
    for width in (8, 16):
        x = keras.layers.Conv2D(width, 3, strides=2, use_bias=False)(x)
        x = norms.BatchNorm(statistics=statistics, group_size=group_size)(x)
        x = keras.layers.Activation("silu")(x)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D(dtype="float32")(x))


def tiny_patches():
    """As `tiny_encoder`, of overlapping patches and without statistics of a batch."""
    inputs = keras.Input((None, None, 3))
    x = inputs
    for width in (8, 16):
        x = keras.layers.Conv2D(width, 3, strides=2, use_bias=False)(x)
        x = keras.layers.GroupNormalization(1)(x)
        x = keras.layers.Activation("silu")(x)
    x = keras.layers.GlobalAveragePooling2D(dtype="float32")(x)
    inner = keras.Model(inputs, x)
    return models.PatchEncoder(
        inner, patch=8, stride=4, image_shape=(SIZE, SIZE, 3), name="patches"
    )


# Encoders of the cases that do not take `tiny_encoder`.
ENCODERS = {"cpc": tiny_patches}


def tiny_teacher(name):
    """A network of another architecture, size of images and range of pixels, frozen.

    With batch norm and dropout, which in training mode would show.
    """
    inputs = keras.Input((12, 12, 3))
    x = keras.layers.Conv2D(10, 3, strides=3, activation="silu", name="map")(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Dropout(0.5)(x)
    x = keras.layers.Dense(7)(keras.layers.GlobalAveragePooling2D()(x))
    network = keras.Model(inputs, x, name=name)
    return methods.Frozen(network, data.Preprocessing(size=12, mean=0.5, std=0.5))


def make(name, *, optimizer=None, **compile_args):
    """The compiled method of a case, with the same weights at every call."""
    keras.utils.set_random_seed(1)
    key, arguments = CASES[name]
    if key in ("distillation", "feature_distillation"):
        arguments = arguments | {"teacher": tiny_teacher(name)}
    build = ENCODERS.get(name, tiny_encoder)
    method = KINDS[key](build(**NORMS.get(name, {})), **arguments)
    optimizer = optimizer or optimizers.build(
        # Small steps: the heads start at N(0, 0.01), and large ones would turn
        # rounding into other trajectories.
        "sgd",
        learning_rate=1e-3,
        weight_decay=1e-4,
    )
    method.compile(optimizer, **compile_args)
    method.build_optimizer()
    if hasattr(method, "assignments"):
        _assign_at_random(method)
    if key in ("classification", "distillation"):
        _classify_at_random(method)
    return method


def _classify_at_random(method):
    """A classifier that starts at zero has no gradient for its encoder."""
    rng = np.random.default_rng(3)
    kernel = method.classifier.trainable_variables[0]
    kernel.assign(rng.normal(size=kernel.shape))
    if method.average is not None:
        method.average.reset()


def _assign_at_random(method):
    """Clusters as no k-means would find them: training only needs some."""
    rng = np.random.default_rng(3)
    counts = np.atleast_1d(method.num_clusters)
    method.assignments.clusters.assign([rng.integers(c, size=_IMAGES) for c in counts])
    for prototypes in getattr(method, "prototypes", ()):
        prototypes.assign(unit(rng.normal(size=prototypes.shape)).astype("float32"))


def batches(name, steps=STEPS, *, constant=None, size=None):
    """`steps` global batches of random views for a case, as a dataset."""
    rng = np.random.default_rng(7)
    rows = np.arange(steps * BATCH)
    # Blocks of colour: images that differ after pooling. Pure noise would not,
    # and batch norm would blow up the rounding of what little differs.
    coarse = rng.uniform(size=(len(rows), 2, 2, 3))
    views = []
    sizes = VIEWS.get(name, (SIZE, SIZE)) if size is None else (size,)
    for side in sizes:
        view = coarse.repeat(side // 2, axis=1).repeat(side // 2, axis=2)
        view = 0.8 * view + 0.2 * rng.uniform(size=view.shape)
        if constant is not None:
            view = np.full_like(view, constant)
        views.append(view.astype("float32"))
    batch = {
        "views": {f"view_{i}": v for i, v in enumerate(views)},
        "index": rows,
        "position": rows,
    }
    if name in LABELS:
        batch["label"] = LABELS[name](rng, len(rows))
    return tf.data.Dataset.from_tensor_slices(batch)


def train(method, dataset, *, steps=STEPS, strategy=None):
    """Trains `steps` steps with `fit`; the last value of every logged metric."""
    data = _distributed(dataset, strategy)
    history = method.fit(data, steps_per_epoch=steps, epochs=1, verbose=0)
    return {key: values[-1] for key, values in history.history.items()}


def evaluate(method, dataset, *, steps=STEPS, strategy=None):
    """Every logged metric of `evaluate` over `steps` steps."""
    data = _distributed(dataset, strategy)
    return method.evaluate(data, steps=steps, verbose=0, return_dict=True)


def _distributed(dataset, strategy):
    """Endless global batches, of which every worker makes its own rows."""

    def rows_of(shard):
        worker, workers = shard
        rows = dataset.batch(BATCH // workers, drop_remainder=True)
        return rows.shard(workers, worker).repeat()

    strategy = strategy or tf.distribute.get_strategy()
    return strategies.distribute(strategy, rows_of, BATCH)


def state(method):
    """Every variable of the method and of its optimizer, by path."""
    return {v.path: np.array(v) for v in method.variables + method.optimizer.variables}


# Between states that differ by rounding alone, as that of other processors, or of two
# replicas. One rounding of the first weights moves a case by up to 6e-6 in 8 steps (a
# contract test holds it below a half of this, wherever it runs), two replicas by as
# much. The mistakes we look for move one by far more: no division by the number of
# replicas doubles every gradient.
TOLERANCE = 3e-5


def rounded(method):
    """Moves every trained weight of a method by about one rounding, up or down."""
    rng = np.random.default_rng(5)
    for variable in method.trainable_variables:
        value = np.array(variable)
        towards = rng.choice([-np.inf, np.inf], size=value.shape)
        variable.assign(np.nextafter(value, towards.astype(value.dtype)))


def assert_close(a, b, tolerance=TOLERANCE):
    """Compares two states, relative to the largest value of each variable."""
    assert len(a) == len(b)
    for (name, x), y in zip(a.items(), b.values()):
        scale = max(np.abs(x).max(), 1.0) if x.size else 1.0
        worst = np.abs(x.astype(np.float64) - y.astype(np.float64)).max() / scale
        assert worst <= tolerance, f"{name}: {worst:.2e}"


def one_convolution(dim=6, norm=None):
    """An encoder of 8x8 images without chance: one convolution, `norm`, mean."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(dim, 3)(inputs)
    if norm is not None:
        x = norm(x)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))


def batch_of(*views, index=None):
    """A batch of these views; without `index` that of images 0, 1, …"""
    index = np.arange(len(views[0])) if index is None else np.asarray(index)
    views = {f"view_{i}": tf.constant(view) for i, view in enumerate(views)}
    index = tf.constant(index, tf.int64)
    return {"views": views, "index": index, "position": tf.range(len(index))}


def two_views(batch=5, seed=0):
    """Two views of 8x8 pixels, random."""
    rng = np.random.default_rng(seed)
    return [rng.uniform(size=(batch, 8, 8, 3)).astype("float32") for _ in range(2)]


def unit(rows):
    """float64 rows of length 1."""
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
