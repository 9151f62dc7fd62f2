"""How many operations a training step starts, with its parts compiled and without.

python -m benchmarks.step_operations --depth=50 --replicas=2 --optimizer=lars

A step of SimCLR is traced, not run. What XLA compiles counts as one operation: on a GPU
it is started as a whole, and its kernels are fewer than its operations. Constants,
shapes and identities, which cost nothing, are left out.
"""

import argparse
import collections

import tensorflow as tf

from tfssl import methods, models, optimizers, pieces

_FREE = ("Const", "Identity", "IdentityN", "NoOp", "Shape", "Placeholder", "_Arg")
_FREE += ("_Retval", "StopGradient", "Reshape", "Squeeze", "ExpandDims")


def counted(graph_def):
    """Operations by type of a graph and of the functions that it calls."""
    library = {f.signature.name: f.node_def for f in graph_def.library.function}

    def count(nodes):
        found = collections.Counter()
        for node in nodes:
            compiled = node.attr["_XlaMustCompile"].b
            called = [] if compiled else _functions(node)
            if compiled:
                found["compiled part"] += 1
            for name in called:
                found += count(library[name])
            if not compiled and not called and node.op not in _FREE:
                found[node.op] += 1
        return found

    return count(graph_def.node)


def _functions(node):
    return [value.func.name for value in node.attr.values() if value.HasField("func")]


def _traced(options, compiling):
    strategy = tf.distribute.get_strategy()
    if options.replicas > 1:
        devices = [f"CPU:{i}" for i in range(options.replicas)]
        strategy = tf.distribute.MirroredStrategy(devices)
    with strategy.scope():
        encoder = models.resnet(options.depth, norm_statistics=options.norm_statistics)
        method = methods.SimCLR(encoder)
        method.compile(optimizers.build(options.optimizer, learning_rate=0.1))
        method.build_optimizer()
    images = tf.TensorSpec((8, options.size, options.size, 3))
    rows = tf.TensorSpec((8,), tf.int64)
    views = {"view_0": images, "view_1": images}

    def on_replica(batch):
        if compiling:
            with pieces.compiling():
                method.train_step(batch)
        else:
            method.train_step(batch)

    @tf.function(autograph=False)
    def step(batch):
        if not compiling:
            strategy.run(on_replica, args=(batch,))
            return
        with pieces.compiling():
            strategy.run(on_replica, args=(batch,))

    made = step.get_concrete_function({"views": views, "index": rows, "position": rows})
    return counted(made.graph.as_graph_def())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, default=50, help="of the ResNet")
    parser.add_argument("--size", type=int, default=64, help="image side in pixels")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--optimizer", default="lars", choices=optimizers.OPTIMIZERS)
    parser.add_argument("--norm_statistics", default="local")
    parser.add_argument("--most", type=int, default=12, help="kinds that are listed")
    options = parser.parse_args()
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * options.replicas,
    )
    for compiling in (False, True):
        found = _traced(options, compiling)
        kinds = ", ".join(f"{kind} {n}" for kind, n in found.most_common(options.most))
        title = "part by part" if compiling else "without XLA"
        print(f"{title}: {sum(found.values()):,} operations; {kinds}", flush=True)


if __name__ == "__main__":
    main()
