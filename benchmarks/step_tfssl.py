"""Training steps of tfssl, one half of `benchmarks.train_step`; runs alone as well.

python -m benchmarks.step_tfssl simclr:bfloat16:lars byol --modes jit bare+jit

A case is METHOD[:PRECISION[:OPTIMIZER]]: float32 (TF32 on a GPU), bfloat16 or
float16, sgd or lars. A mode is one or several of these words with "+" between them:

- graph, jit: `tf.function`, or with XLA, on random views that lie on the device.
- fit: the loop of `Method.fit`, fed from host memory; with prefetch two batches ahead
  are copied to the GPU, with spe10 ten steps are one call (`steps_per_execution`).
- pieces: what XLA can take by itself is compiled, as with several replicas; cluster:
  TensorFlow's automatic clustering by XLA.
- two: two replicas on the two halves of one device (`--split`), with fit.
- bare: the encoder alone, with what passes it in a step of the method.
- stock: Keras's BatchNormalization in place of ours.
- global, split: the `norm_statistics` of the encoder.
"""

import contextlib
import gc

import keras
import tensorflow as tf

from benchmarks import step_timing
from tfssl import methods, models, optimizers, pieces

POLICIES = {
    "float32": "float32",
    "bfloat16": "mixed_bfloat16",
    "float16": "mixed_float16",
}
_KEPT_ARGUMENTS = ("name", "momentum", "epsilon", "gamma_initializer", "dtype")
_WORDS = ("graph", "jit", "pieces", "cluster", "fit", "prefetch", "two")
_WORDS += ("bare", "stock", "global", "split")
_AHEAD = 2


class Gpu:
    """The clock and the memory of the first GPU, as `step_timing.Processor`."""

    gpu = True

    def __init__(self, device):
        details = tf.config.experimental.get_device_details(device)
        self.name = details.get("device_name", "GPU")

    def synchronize(self):
        tf.test.experimental.sync_devices()

    def forget_peak(self):
        tf.config.experimental.reset_memory_stats("GPU:0")

    def peak(self):
        return tf.config.experimental.get_memory_info("GPU:0")["peak"]


def device(split):
    """The device; with `split`, GiB of each, as two logical ones."""
    gpus = tf.config.list_physical_devices("GPU")
    physical = (gpus or tf.config.list_physical_devices("CPU"))[0]
    if split:
        limit = split * 1024 if gpus else None
        halves = [tf.config.LogicalDeviceConfiguration(memory_limit=limit)] * 2
        tf.config.set_logical_device_configuration(physical, halves)
    elif gpus:
        # Else TensorFlow takes the whole memory, and the other half has none.
        tf.config.experimental.set_memory_growth(physical, True)
    return Gpu(physical) if gpus else step_timing.Processor()


def _strategy(parts):
    if "two" not in parts:
        return tf.distribute.get_strategy()
    kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    # NCCL knows no logical devices.
    return tf.distribute.MirroredStrategy(
        [f"{kind}:0", f"{kind}:1"],
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )


def with_stock_norm(model):
    """The same model with Keras's layer in place of every one of ours."""

    def clone(layer):
        config = layer.get_config()
        if isinstance(layer, models.norms.BatchNorm):
            return keras.layers.BatchNormalization(
                **{key: config[key] for key in _KEPT_ARGUMENTS}
            )
        return type(layer).from_config(config)

    stock = keras.models.clone_model(model, clone_function=clone)
    stock.set_weights(model.get_weights())
    return stock


def _encoder(case, parts, options):
    side = None if step_timing.VIEWS[case.method][1] else options.size
    statistics = [word for word in ("global", "split") if word in parts]
    encoder = models.resnet(
        options.depth,
        width=options.width,
        stem=options.stem,
        input_shape=(side, side, 3),
        projection_in_first_block=False,  # As torchvision.
        norm_statistics=statistics[0] if statistics else "local",
    )
    return with_stock_norm(encoder) if "stock" in parts else encoder


def _method(case, encoder, options):
    if case.method == "simclr":
        return methods.SimCLR(encoder)
    if case.method == "byol":
        return methods.BYOL(encoder, total_steps=1000)
    if case.method == "moco_v2":
        return methods.MoCo(encoder, version=2, queue_size=options.queue)
    if case.method == "moco_v3":
        return methods.MoCo(encoder, version=3, total_steps=1000)
    if case.method == "swav":
        return methods.SwAV(encoder, freeze_epochs=0.0)
    clusters = 10_000
    method = methods.DeepCluster(encoder, num_images=clusters, num_clusters=clusters)
    method.assignments.clusters.assign(tf.range(clusters, dtype=tf.int64)[tf.newaxis])
    return method


def _optimizer(case):
    if case.optimizer == "lars":
        return optimizers.LARS(0.3, weight_decay=1e-6)
    return optimizers.SGD(0.03, weight_decay=1e-4)


def _batch(case, options):
    large, small = step_timing.VIEWS[case.method]
    sides = [options.size] * large + [options.small] * small
    views = {
        f"view_{i}": tf.random.stateless_normal((options.batch, side, side, 3), (i, 7))
        for i, side in enumerate(sides)
    }
    with tf.device("CPU"):
        index = tf.range(options.batch, dtype=tf.int64)
    return {"views": views, "index": index, "position": index}


def _bare_step(case, encoder, batch, parts):
    """The encoder's share of the method's step, and its update."""
    trained, followed = step_timing.PASSES[case.method]
    optimizer, variables = _optimizer(case), encoder.trainable_variables
    optimizer.build(variables)
    target = type(encoder).from_config(encoder.get_config()) if followed else None
    last = tf.Variable(0.0)

    def mean_square(network, views, which):
        images = tf.concat([views[f"view_{i}"] for i in which], axis=0)
        return tf.reduce_mean(tf.square(network(images, training=True)))

    def train_step(views):
        with tf.GradientTape() as tape:
            loss = tf.add_n([mean_square(encoder, views, w) for w in trained])
        gradients = tape.gradient(loss, [v.value for v in variables])
        optimizer.apply(gradients, variables)
        loss += sum(mean_square(target, views, which) for which in followed)
        last.assign(loss)

    train_step = _in_pieces(train_step, parts)
    step = tf.function(train_step, jit_compile="jit" in parts, autograph=False)
    return step_timing.Step(
        run=lambda: step(batch["views"]),
        loss=lambda: float(last),
        weights=_count(variables),
    )


def _method_step(case, encoder, parts, options):
    jit = "jit" in parts
    spe = [int(p[3:]) for p in parts if p.startswith("spe")] if "fit" in parts else []
    steps = spe[0] if spe else 1
    method = _method(case, encoder, options)
    jit = jit or ("two" in parts and "pieces" in parts)
    method.compile(_optimizer(case), jit_compile=jit, steps_per_execution=steps)
    method.build_optimizer()
    if "fit" in parts:
        run = _fit(method, case, parts, options)
    else:
        batch = _batch(case, options)
        train_step = _in_pieces(method.train_step, parts)
        step = tf.function(train_step, jit_compile=jit, autograph=False)
        run = lambda: step(batch)  # noqa: E731
    loss = next(m for m in method.metrics if m.name == "loss")
    return step_timing.Step(
        run=run,
        loss=lambda: float(loss.result()),
        weights=_count(method.learned_variables),
        steps=steps,
    )


def _in_pieces(function, parts):
    def run(*args):
        with pieces.compiling() if "pieces" in parts else contextlib.nullcontext():
            return function(*args)

    return run


def _fit(method, case, parts, options):
    with tf.device("CPU"):
        batches = tf.data.Dataset.from_tensors(_batch(case, options)).repeat()
    if "prefetch" in parts and tf.config.list_physical_devices("GPU"):
        copy = tf.data.experimental.prefetch_to_device("/GPU:0", _AHEAD)
        batches = batches.apply(copy)
    if "two" in parts:
        halves = batches.unbatch().batch(options.batch, drop_remainder=True)
        batches = method.distribute_strategy.experimental_distribute_dataset(halves)
    method.make_train_function()
    iterator = iter(batches)
    return lambda: method.train_function(iterator)


def _count(variables):
    return sum(int(tf.size(v.value)) for v in variables)


def make_step(case, parts, options):
    for word in parts:
        if word not in _WORDS and not word.startswith("spe"):
            raise ValueError(f"{word!r} received in a mode, expected {_WORDS} or spe10")
    keras.backend.clear_session()  # Resets the policy too, so before it is set.
    gc.collect()
    keras.config.set_dtype_policy(POLICIES[case.precision])
    keras.utils.set_random_seed(0)
    tf.config.optimizer.set_jit("autoclustering" if "cluster" in parts else False)
    with _strategy(parts).scope():
        encoder = _encoder(case, parts, options)
        if step_timing.BARE in parts:
            return _bare_step(case, encoder, _batch(case, options), parts)
        return _method_step(case, encoder, parts, options)


def main():
    parser = step_timing.parser(__doc__)
    parser.set_defaults(modes=["graph", "jit"])
    parser.add_argument("--split", type=int, default=0, help="see two; GiB of a half")
    options = parser.parse_args()
    step_timing.Half("tfssl", make_step, device(options.split), options).main()


if __name__ == "__main__":
    main()
