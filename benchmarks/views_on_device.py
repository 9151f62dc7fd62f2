"""What finishing views on the device costs, and what it brings a whole training.

python -m benchmarks.views_on_device finish:simclr finish:swav:ops
python -m benchmarks.views_on_device --data=photos/ input:byol:device fit:byol:device

Each case is one of

- `finish:RECIPE[:ops]`: `views.finish` alone, on a batch that lies on the device,
  compiled with XLA (or not), with one part of the recipe after the other;
- `input:RECIPE:PLACE`: images/s of `multiview(…, augment_on=PLACE)` from the files of
  `--data`, without a training; PLACE is `host` or `device`, or `all`: the images, small
  and decoded once, lie on the device too;
- `fit:RECIPE:PLACE`: the loop of `Method.fit` from these files, in `--dtype`, compiled
  with XLA, of a recipe of SimCLR, BYOL or SwAV, whose name says the method, and the
  stem of the ResNet (`--stem` overrules it).

Times are medians of `--blocks` blocks of `--per` calls, with the least and the most.
The files, those of class folders too, are read `--copies` times under other names
(links), so that an epoch is long. No case starts after `--until` seconds. To rehearse
on a CPU: `--batch=8 --size=32 --depth=18 --width=0.25 --per=1 --warm=1`.
"""

import argparse
import functools
import os
import statistics
import tempfile
import time

import keras
import tensorflow as tf

from tfssl import data, methods, models, optimizers
from tfssl.data import pipeline, sources, views
from tfssl.data.views import device, recipes
from tfssl.training import strategy as strategies

_START = time.perf_counter()
# What is added to the cast of whole numbers, one after the other.
_PARTS = {
    "cast alone": dict(
        jitter=0.0, gray=0.0, blur=0.0, solarize=0.0, mean=None, std=None
    ),
    "and colour": dict(blur=0.0, solarize=0.0, mean=None, std=None),
    "and blur": dict(solarize=0.0, mean=None, std=None),
    "and solarise, normalise": {},
}


def measured(call, options):
    """`(seconds of the first call, seconds per call of each block)`."""
    start = time.perf_counter()
    call()
    tf.test.experimental.sync_devices()
    first = time.perf_counter() - start
    blocks = []
    for number in range(options.warm + options.blocks):
        start = time.perf_counter()
        for _ in range(options.per):
            call()
        tf.test.experimental.sync_devices()
        if number >= options.warm:
            blocks.append((time.perf_counter() - start) / options.per)
    return first, blocks


def told(name, first, blocks, options, more=""):
    middle, least, most = (1000 * f(blocks) for f in (statistics.median, min, max))
    print(
        f"RESULT {name:46}{1000 * options.batch / middle:9.0f} images/s "
        f"{middle:9.3f} ms ({least:.3f}-{most:.3f})  first {first:.1f} s{more}",
        flush=True,
    )


def finish_case(recipe, options, form="xla"):
    for part, changes in _PARTS.items():
        chosen = recipe.scaled(**changes)
        batch = made_up(chosen, options)
        run = tf.function(
            lambda b, r=chosen: views.finish(b, r)["views"],
            jit_compile=form == "xla",
            autograph=False,
        )
        name = f"finish:{recipe.name}:{form}, {part}"
        told(name, *measured(lambda f=run, b=batch: f(b), options), options)


def made_up(recipe, options):
    """A batch of noise with the numbers of the recipe, on the device."""
    key = dict(batch=options.batch, channels=3, seed=0, step=0)
    packed = views.pack(views.sample(recipe, **key), recipe, 3)
    shapes = [(options.batch, view.size, view.size, 3) for view in recipe]
    noise = [
        tf.cast(tf.random.stateless_uniform(s, (i, 1), 0, 256, tf.int32), tf.uint8)
        for i, s in enumerate(shapes)
    ]
    numbers = views.tones(packed, recipe, 3)
    made = {f"view_{i}": image for i, image in enumerate(noise)}
    return tf.nest.map_structure(tf.identity, {"views": made, device.NUMBERS: numbers})


# Methods that `fit` trains, by how the names of their recipes begin.
_METHODS = {
    "simclr": methods.SimCLR,
    "byol": functools.partial(methods.BYOL, total_steps=1000),
    "swav": functools.partial(methods.SwAV, steps_per_epoch=1000, freeze_epochs=0.0),
}
# Options of `multiview` by the place of a case.
_PLACES = {
    "host": {},
    "device": dict(augment_on="device"),
    "all": dict(augment_on="device", images_on="device"),
}


def stream(recipe, options, place, shard=(0, 1)):
    return pipeline.multiview(
        options.source, recipe, batch_size=options.batch, shard=shard, **_PLACES[place]
    )


def input_case(recipe, options, place):
    batches = iter(stream(recipe, options, place))
    size = sum(tensor.numpy().nbytes for tensor in tf.nest.flatten(next(batches)))
    more = f"  {size / 1e6:.0f} MB a step"
    name = f"input:{recipe.name}:{place}"
    told(name, *measured(lambda: next(batches), options), options, more)


def fit_case(recipe, options, place):
    keras.backend.clear_session()
    keras.config.set_dtype_policy(options.dtype)
    keras.utils.set_random_seed(0)
    method = make_method(recipe, options)
    method.compile(
        optimizers.LARS(0.3),
        jit_compile=True,
        finish=None if place == "host" else views.finishing(recipe),
    )
    if place == "all":
        method.hold_images(options.source)
    strategy = tf.distribute.get_strategy()
    batches = iter(
        strategies.distribute(
            strategy, lambda shard: stream(recipe, options, place, shard), options.batch
        )
    )
    method.make_train_function()
    first, blocks = measured(lambda: method.train_function(batches), options)
    steps = options.per * (options.warm + options.blocks)
    before = float(method.input_wait)
    start = time.perf_counter()
    for _ in range(steps):
        method.train_function(batches)
    tf.test.experimental.sync_devices()
    seconds = time.perf_counter() - start
    share = (float(method.input_wait) - before) / seconds
    more = (
        f"  {steps * options.batch / seconds:.0f} images/s over {steps} more steps, of "
        f"which {share:.0%} waiting, loss {float(method.metrics[0].result()):.4f}"
    )
    told(f"fit:{recipe.name}:{place}", first, blocks, options, more)


def make_method(recipe, options):
    side = recipe[0].size if len({view.size for view in recipe}) == 1 else None
    small = recipe.name.endswith(("_cifar10", "_digits"))
    encoder = models.resnet(
        options.depth,
        width=options.width,
        stem=options.stem or ("cifar" if small else "imagenet"),
        input_shape=(side, side, 3),
    )
    return _METHODS[family(recipe.name)](encoder)


def family(recipe):
    """The method that a recipe's name begins with."""
    return recipe.split("_")[0]


def linked(folder, copies, into):
    """A folder with every file of another, and of folders in it, under several names.

    Where links to files are not possible (another file system) they are symbolic, and
    lead out of the folder.
    """
    files = sorted(
        os.path.join(place, name)
        for place, _, names in os.walk(folder)
        for name in names
    )
    for number in range(copies):
        for row, path in enumerate(files):
            name = os.path.join(
                into, f"{number:03d}_{row:07d}_{os.path.basename(path)}"
            )
            try:
                os.link(path, name)
            except OSError:
                os.symlink(os.path.abspath(path), name)
    return into


def opened(folder):
    """The images of a folder that `linked` made."""
    return data.open_source(folder, follow_links=True)


# Kinds of a case: what runs it, and what may stand after the recipe.
_KINDS = {
    "finish": (finish_case, (None, "xla", "ops")),
    "input": (input_case, tuple(_PLACES)),
    "fit": (fit_case, tuple(_PLACES)),
}


def _listed(names):
    return ", ".join(names)


def mistake(case, data):
    """What is wrong with a case, a sentence, or None."""
    kind, recipe, place, *more = *case.split(":"), *[None] * 2
    if kind not in _KINDS:
        return f"{case!r} received, expected a case that begins with {_listed(_KINDS)}."
    if recipe not in recipes.RECIPES:
        known = _listed(sorted(recipes.RECIPES))
        return f"{case!r} received, expected one of the recipes {known} in it."
    places = [one for one in _KINDS[kind][1] if one]
    if place not in _KINDS[kind][1] or any(more):
        return f"{case!r} received, expected one of {_listed(places)} after the recipe."
    if kind == "fit" and family(recipe) not in _METHODS:
        return (
            f"{case!r} received, expected a recipe of {_listed(_METHODS)} to train by."
        )
    if kind != "finish" and not data:
        return f"{case!r} needs images; give their folder as --data."
    return None


def main(options):
    gpus = tf.config.list_physical_devices("GPU")
    names = [
        tf.config.experimental.get_device_details(g).get("device_name") for g in gpus
    ]
    print(
        f"on {names or 'CPU'}, batch {options.batch}, {os.cpu_count()} cores",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        if options.data:
            folder = linked(options.data, options.copies, folder)
            options.source = sources.keep(opened(folder), options.cache << 30)
        for case in options.cases:
            if time.perf_counter() - _START > options.until:
                print("SKIPPED", case, flush=True)
                continue
            kind, recipe, *more = case.split(":")
            recipe = recipes.get(recipe).scaled(options.size)
            try:
                _KINDS[kind][0](recipe, options, *more)
            except Exception as error:  # The other cases still count.
                print("FAILED", case, repr(error)[:500], flush=True)
    print(f"done after {time.perf_counter() - _START:.0f} s", flush=True)


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("cases", nargs="+", metavar="CASE")
    add("--data", help="Folder of image files, for input and fit.")
    add("--copies", type=int, default=16, help="Names of every file.")
    add("--cache", type=int, default=0, help="GiB for images that are decoded once.")
    add("--batch", type=int, default=256)
    add("--size", type=int, default=None, help="Pixels of the first view.")
    add("--depth", type=int, default=50, help="Of the ResNet.")
    add("--width", type=float, default=1.0, help="Of the ResNet.")
    add("--stem", choices=("imagenet", "cifar"), help="Of the ResNet, see above.")
    add("--dtype", default="mixed_bfloat16", help="Policy of Keras.")
    add("--warm", type=int, default=2, help="Blocks that are not timed.")
    add("--blocks", type=int, default=5, help="Timed blocks.")
    add("--per", type=int, default=5, help="Calls in a block.")
    add("--until", type=float, default=1e9, help="Start no case after these seconds.")
    options = parser.parse_args()
    for wrong in filter(None, (mistake(case, options.data) for case in options.cases)):
        parser.error(wrong)
    return options


if __name__ == "__main__":
    main(parse())
