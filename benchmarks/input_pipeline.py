"""What the input pipeline makes per second, stage by stage, and against a peer.

python -m benchmarks.input_pipeline --data=photos/ --size=224
python -m benchmarks.input_pipeline --data=photos/ --profile
python -m benchmarks.input_pipeline --arrays --size=32 --recipe=simclr_cifar10
make peer; make bench-input ARGS="--data=photos/ --recipe=swav"

All stages take turns in every round, so that a machine that slows down slows all of
them; compare the ratios of one run only. `core-ms` is processor time per image, of all
threads and processes, which other work on the machine disturbs less than images per
second: where nothing else runs, images/s = 1000 x cores / core-ms. Files are read into
memory first. The peer is any command that understands `--data --arrays --recipe --size
--batch_size --max_images --seconds` and prints its images per second and core-ms as
the last two words; it runs once per round. `--augment_on=device` adds the host's part
of views that a device finishes, and `--images_on=device` that of views of images that
lie there (with `--arrays` or `--kept`), and what a batch takes. `--profile` prints the
processor time of one thread for each step of the work.
"""

import argparse
import itertools
import shlex
import statistics
import subprocess
import time

import numpy as np
import tensorflow as tf

from tfssl.data import pipeline, sources, views
from tfssl.data.views import applying, device, recipes, specs, tiles

# Changes of a recipe that leave crop, flip and resize only.
PLAIN = dict(
    jitter=0.0, gray=0.0, blur=0.0, solarize=0.0, rand_augment=0, mean=None, std=None
)
# Batches that pass before the clock starts: what was made while it stood.
_WARM_UP = 3
_GEOMETRY = "decode, crop, resize"
# Stages by where work is done: name -> options of `multiview`.
_PLACED = {
    "augment_on=device": dict(augment_on="device"),
    "images_on=device": dict(augment_on="device", images_on="device"),
}


def stages(recipe, options):
    """Recipes that leave out one part after the other, by name."""
    bilinear = dict(resize="bilinear", antialias=False)
    given = [f"{name}={getattr(options, name)}" for name in ("augment_on", "images_on")]
    return {
        "all of the recipe": recipe,
        **{name: recipe for name in _PLACED if name in given},
        "no blur": recipe.scaled(blur=0.0),
        "its decode, crop, resize": recipe.scaled(**PLAIN),
        _GEOMETRY: recipe.scaled(**bilinear, **PLAIN),
    }


def open_images(options):
    if options.data is None:
        shape = (options.max_images, 32, 32, 3)
        noise = np.random.default_rng(0).integers(0, 256, shape)
        return sources.ArraySource(noise.astype(np.uint8))
    memory = in_memory(options.data, options.max_images)
    if options.kept:
        start, used = time.perf_counter(), time.process_time()
        memory = sources.keep(memory, 1 << 40)
        memory.ready()
        seconds, cpu = time.perf_counter() - start, time.process_time() - used
        print(f"{memory.memory.told}: {seconds:.1f} s, {cpu:.1f} CPU s")
    if not options.arrays:
        return memory
    images = [
        memory.decode(memory.read(tf.constant(i))) for i in range(memory.num_images)
    ]
    return sources.ArraySource(np.stack(images))


def in_memory(folder, max_images=None):
    """A folder's images, or `max_images` spread over them, as files in memory."""
    source = sources.open_source(folder)
    count = max_images or source.num_images
    rows = np.linspace(0, source.num_images - 1, count).astype(np.int64)
    return sources.BytesSource(
        [source.read(tf.constant(i)).numpy() for i in np.unique(rows)],
        name=source.name,
        channels=source.channels,
        dtype=source.dtype,
        labels=None,
        class_names=None,
    )


def stream(source, name, recipe, options):
    """The batches of a stage."""
    places = _PLACED.get(name, {})
    return pipeline.multiview(source, recipe, batch_size=options.batch_size, **places)


def turn(dataset, length):
    """`(images per second, processor milliseconds per image)` of one turn."""
    batches = iter(dataset)
    for _ in range(_WARM_UP):
        next(batches)
    images, start, used = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - start < length:
        images += len(next(batches)["index"])
    seconds = time.perf_counter() - start
    return images / seconds, 1000.0 * (time.process_time() - used) / images


def peer_turn(options):
    command = shlex.split(options.peer)
    command += [f"--data={options.data}"] if options.data else []
    command += ["--arrays"] if options.arrays else []
    for name in ("recipe", "size", "batch_size", "max_images", "seconds"):
        command.append(f"--{name}={getattr(options, name)}")
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"The peer failed: {options.peer}\n{done.stderr}")
    rate, cost = done.stdout.split()[-2:]
    return float(rate), float(cost)


def profile(source, recipe, options):
    """Prints the processor time per image that each step adds, on one thread."""
    recipe = tiles.flat(specs.for_channels(recipe, source.channels))
    white, channels = source.max_value, source.channels
    count = min(options.batch_size, source.num_images)
    numbers = views.sample(recipe, batch=count, channels=channels, seed=0, step=0)
    packed = views.pack(numbers, recipe, channels, white)

    def rendered(leave_out):
        parts = recipe.scaled(**leave_out)

        def make(image, crops, packed):
            coins = views.coins_of(packed, recipe, channels)
            turned = applying.comes_turned
            images = applying.resized(coins, packed, image, parts, crops, turned)
            rows = [views.fields(x, recipe, channels) for x in tf.unstack(packed)]
            return [
                applying.render(*of_view, white)
                for of_view in zip(rows, coins, images, parts)
            ]

        return make

    def part(make):
        def made(image, crops, packed):
            coins = views.coins_of(packed, recipe, channels)
            return make(coins, image, recipe, crops)

        return made

    def resized(image, crops, packed):
        coins = views.coins_of(packed, recipe, channels)
        return applying.resized(coins, packed, image, recipe, crops)

    def whole(image, crops, packed):
        return views.apply_packed(packed, image, recipe, crops)

    steps = {
        "decode": lambda image, crops, packed: [image],
        "crop, flip": part(applying.cropped),
        "resize": resized,
        "colour": rendered(dict(blur=0.0, solarize=0.0, mean=None, std=None)),
        "blur": rendered(dict(solarize=0.0, mean=None, std=None)),
        "solarise, normalise": whole,
        "batch": whole,
    }

    def dataset(name, make):
        def work(index, packed):
            if make is None:
                return packed[0, :1]
            raw = source.read(index)
            boxes = lambda h, w: views.boxes(packed, recipe, h, w)  # noqa: E731
            made = make(*source.decode_window(raw, boxes), packed)
            made = [view for view in made if view is not None]  # Tiles of one crop.
            if name == "batch":
                return tuple(made)
            return tf.stack([tf.cast(x[0, 0, 0], tf.float32) for x in made])

        rows = tf.data.Dataset.from_tensor_slices((tf.range(count), packed)).repeat()
        alone = tf.data.Options()  # Else work is done ahead, in the turns of others.
        alone.experimental_optimization.apply_default_optimizations = False
        alone.experimental_optimization.inject_prefetch = False
        alone.autotune.enabled = False
        return iter(rows.map(work).batch(count).with_options(alone))

    steps = {"": None, **steps}
    turns = {name: dataset(name, make) for name, make in steps.items()}
    costs = {name: [] for name in steps}
    for number in range(options.rounds + 1):
        for name, iterator in turns.items():
            start = time.process_time()
            next(iterator)
            if number:  # The first is traced and compiled.
                costs[name].append(1000.0 * (time.process_time() - start) / count)
    print(f"{'step':24}{'core-ms':>10}{'share':>8}")
    medians = {name: statistics.median(found) for name, found in costs.items()}
    total = medians["batch"] - medians[""]
    for before, name in itertools.pairwise(steps):
        cost = medians[name] - medians[before]
        print(f"{name:24}{cost:10.3f}{cost / total:8.0%}")
    print(f"{'together':24}{total:10.3f}")


def main(options):
    tf.config.threading.set_intra_op_parallelism_threads(1)
    source = open_images(options)
    recipe = recipes.get(options.recipe).scaled(options.size)
    print(
        f"{source.name}: {source.num_images} images, {recipe.name}, {options.size} px"
    )
    if options.profile:
        profile(source, recipe, options)
        return
    cases = stages(recipe, options)
    found = {name: [] for name in cases}
    if options.peer:
        found["peer"] = []
    for _ in range(options.rounds):
        for name, case in cases.items():
            batches = stream(source, name, case, options)
            found[name].append(turn(batches, options.seconds))
        if options.peer:
            found["peer"].append(peer_turn(options))
    print(f"{'':26}{'images/s':>9}{'core-ms':>9}{'of geometry':>20}", end="")
    print(f"{'x peer':>20}" if options.peer else "")
    for name, turns in found.items():
        rate, cost = (statistics.median(column) for column in zip(*turns))
        print(f"{name:26}{rate:9.0f}{cost:9.3f}", end="")
        print(f"{ratios(turns, found[_GEOMETRY]):>20}", end="")
        print(f"{ratios(turns, found['peer']):>20}" if options.peer else "")
    print("Ratios are of images/s, and in brackets of core-ms; medians of the rounds.")
    placed = [name for name in _PLACED if name in cases]
    for name in ["all of the recipe", *placed] if placed else []:
        batch = next(iter(stream(source, name, recipe, options)))
        size = sum(tensor.numpy().nbytes for tensor in tf.nest.flatten(batch))
        print(f"{name}: {size / 1e6:.2f} MB a batch")


def ratios(turns, base):
    """How much faster than `base`, by rate and (by processor time)."""
    pairs = [(a[0] / b[0], b[1] / a[1]) for a, b in zip(turns, base)]
    by_rate, by_cost = (statistics.median(column) for column in zip(*pairs))
    return f"{by_rate:.2f} ({by_cost:.2f})"


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", help="Folder of images; default is noise of 32 pixels.")
    add("--arrays", action="store_true", help="Decode first, and feed arrays.")
    add("--kept", action="store_true", help="Decode once and keep, as --cache_gib.")
    add("--recipe", default="simclr", choices=sorted(recipes.RECIPES))
    add("--size", type=int, default=224, help="Pixels of the first view.")
    add("--batch_size", type=int, default=64)
    add("--max_images", type=int, default=2000, help="Images held in memory.")
    add("--rounds", type=int, default=5, help="Turns of every stage.")
    add("--seconds", type=float, default=3.0, help="Length of a turn.")
    add("--augment_on", choices=device.PLACES, default="host")
    add("--images_on", choices=device.PLACES, default="host")
    add("--profile", action="store_true", help="Time of each step, instead.")
    add("--peer", help="Command of a peer, see the module's docstring.")
    return parser.parse_args()


if __name__ == "__main__":
    main(parse())
