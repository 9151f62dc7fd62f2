"""What the contract tests train: the cases of `case_table`, built, fed and compared."""

import contextlib

import keras
import numpy as np
import tensorflow as tf

from tests.methods.case_table import (
    BATCH,
    BRANCHES,
    CASES,
    IMAGES,
    KINDS,
    LABELS,
    MAPPED,
    NORMS,
    SIZE,
    STEPS,
    TILED,
    TRANSFORMERS,
    VIEWS,
)
from tfssl import data, methods, models, optimizers
from tfssl.models import norms
from tfssl.training import strategy as strategies


def tiny_encoder(statistics="global", group_size=None, channels=3):
    """Two convolutions with batch norm: shallow, so that rounding stays small.

    And smooth: among the many inputs of a ReLU one lies within a rounding of its kink,
    and the gradient then depends on the order in which the processor adds.
    """
    inputs = keras.Input((None, None, channels))
    x = inputs
    for width in (8, 16):
        x = keras.layers.Conv2D(width, 3, strides=2, use_bias=False)(x)
        x = norms.BatchNorm(statistics=statistics, group_size=group_size)(x)
        x = keras.layers.Activation("silu")(x)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D(dtype="float32")(x))


def tiny_branches(front, views):
    """A tiny encoder per view."""
    networks = {}
    for view, group in views.items():
        with keras.name_scope(view):
            networks[view] = tiny_encoder(channels=len(group))
    front = [layer() for layer in front]
    return models.Branches(networks, views, input_shape=(None, None, 3), front=front)


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


def tiny_transformer(**arguments):
    """One block on 16 patches, or on others.

    Of four patches the batch norms of MoCo v3's head made 2e-5 of one rounding.
    """
    patches = dict(patch=4, input_shape=(SIZE, SIZE, 3))
    network = models.ViT(16, depth=1, heads=2, **patches | arguments)
    if arguments.get("distillation_token"):
        tokens = network.get_layer("tokens")
        # Norms multiply the gradients of small ones, which overflow float16.
        for token in (tokens.first, tokens.second):
            token.assign(50 * token)
    return network


def tiny_tokenizer(**others):
    """The smallest one of a grid of 4 x 4."""
    given = dict(vocabulary=12, downsampling=4, width=8, blocks=1, decoder_width=8)
    return models.Tokenizer(**given | others)


def tiny_segmenter(encoder, classes):
    """The narrowest one of images of SIZE."""
    names = [f"class {i}" for i in range(classes)]
    return models.Segmenter(encoder, names, image_size=SIZE, width=16)


def frozen_tokenizer():
    """Far from its start, so that there are several codes in an image."""
    network = tiny_tokenizer(vocabulary=6, downsampling=2)
    rng = np.random.default_rng(2)
    for variable in network.encoder.trainable_variables:
        variable.assign(variable + 0.3 * rng.normal(size=variable.shape))
    return methods.Frozen(network, data.Preprocessing(size=SIZE))


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
    if key == "beit":
        arguments = arguments | {"teacher": frozen_tokenizer()}
    if name in BRANCHES:
        encoder = tiny_branches(*BRANCHES[name])
    elif key == "cpc":
        encoder = tiny_patches()
    elif name in TRANSFORMERS:
        encoder = tiny_transformer(**TRANSFORMERS[name])
        if name in MAPPED:
            encoder = tiny_segmenter(encoder, MAPPED[name])
    elif key == "dvae":
        encoder = tiny_tokenizer()
    else:
        encoder = tiny_encoder(**NORMS.get(name, {}))
    method = KINDS[key](encoder, **arguments)
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
    for variable in method.classifier.trainable_variables:
        if len(variable.shape) == 2:
            variable.assign(rng.normal(size=variable.shape))
    if method.average is not None:
        method.average.reset()


def _assign_at_random(method):
    """Clusters as no k-means would find them: training only needs some."""
    rng = np.random.default_rng(3)
    counts = np.atleast_1d(method.num_clusters)
    method.assignments.clusters.assign([rng.integers(c, size=IMAGES) for c in counts])
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
        if name in MAPPED:
            view = np.concatenate([view, colours(coarse, side)], axis=-1)
        views.append(view.astype("float32"))
    if name in TILED:
        number, grid = TILED[name]
        views[number] = in_tiles(views[number], grid)
    batch = {
        "views": {f"view_{i}": v for i, v in enumerate(views)},
        "index": rows,
        "position": rows,
    }
    if name in LABELS:
        batch["label"] = LABELS[name](rng, len(rows))
    return tf.data.Dataset.from_tensor_slices(batch)


def colours(coarse, side):
    """A map of what is largest in blocks of colour: 0 and 1, a channel for each."""
    largest = coarse.argmax(-1)[..., np.newaxis] == np.arange(coarse.shape[-1])
    return largest.repeat(side // 2, axis=1).repeat(side // 2, axis=2)


def in_tiles(images, grid):
    """`(n, s, s, c)` -> `(n, grid * grid, s / grid, s / grid, c)`, row by row."""
    count, side, _, channels = images.shape
    cell = side // grid
    cells = images.reshape(count, grid, cell, grid, cell, channels).swapaxes(2, 3)
    return cells.reshape(count, grid**2, cell, cell, channels)


def train(method, dataset, *, steps=STEPS, strategy=None):
    """Trains `steps` steps with `fit`; the last value of every logged metric."""
    data = distributed(dataset, strategy)
    history = method.fit(data, steps_per_epoch=steps, epochs=1, verbose=0)
    return {key: values[-1] for key, values in history.history.items()}


def evaluate(method, dataset, *, steps=STEPS, strategy=None):
    """Every logged metric of `evaluate` over `steps` steps."""
    data = distributed(dataset, strategy)
    return method.evaluate(data, steps=steps, verbose=0, return_dict=True)


def distributed(dataset, strategy):
    """Endless global batches, of which every worker makes its own rows."""

    def rows_of(shard):
        worker, workers = shard
        rows = dataset.batch(BATCH // workers, drop_remainder=True)
        return rows.shard(workers, worker).repeat()

    strategy = strategy or tf.distribute.get_strategy()
    return strategies.distribute(strategy, rows_of, BATCH)


def named(method):
    """Every variable of the method and of its optimizer, by its path.

    Networks of one make have equal paths: a second one gets a prime, and so on.
    """
    found = {}
    for variable in method.variables + method.optimizer.variables:
        name = variable.path
        while name in found:
            name += "'"
        found[name] = variable
    return found


def state(method):
    """The values of all that is `named`, by these names."""
    return {name: np.array(variable) for name, variable in named(method).items()}


def give(method, state):
    """The method, with the `state` that it had."""
    for variable, value in zip(named(method).values(), state.values(), strict=True):
        variable.assign(value)
    return method


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


@contextlib.contextmanager
def as_written(name):
    """Context in which a transformer's sums are those that its code says.

    TensorFlow rewrites them (gradients of layer norm among them), and not alike in a
    loop and outside of one.
    """
    options = tf.config.optimizer.set_experimental_options
    options({"arithmetic_optimization": name not in TRANSFORMERS})
    try:
        yield
    finally:
        options({"arithmetic_optimization": True})


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
    """float64 rows of length 1; one of zeros stays."""
    rows = np.asarray(rows, np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
