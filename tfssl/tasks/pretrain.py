"""Pre-training from images to a saved encoder, in one call."""

import contextlib
import os

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from tfssl import data as data_lib
from tfssl import methods, optimizers
from tfssl.data import bad_files as bad_files_lib
from tfssl.data import pipeline, recipes
from tfssl.export import keras_file
from tfssl.optimizers import schedules
from tfssl.tasks import resolve, runs, show_views
from tfssl.training import checkpoint, monitors, saving
from tfssl.training import strategy as strategies

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
_MONITORED_IMAGES = 256


def pretrain(
    data="digits",
    out="runs/pretrain",
    *,
    split=None,
    labels="auto",
    channels=None,
    bit_depth=8,
    data_dir=None,
    validation_data=None,
    validation_split=None,
    validation_fraction=0.0,
    method="simclr",
    hparams=None,
    encoder="resnet18",
    encoder_args=None,
    recipe=None,
    image_size=None,
    augment=True,
    epochs=100,
    batch_size=256,
    optimizer="lars",
    learning_rate=0.3,
    lr_scaling="linear",
    weight_decay=1e-6,
    warmup_epochs=10.0,
    strategy="default",
    num_replicas=None,
    tpu=None,
    precision="float32",
    jit_compile=False,
    steps_per_execution=1,
    seed=0,
    resume=True,
    init_from=None,
    checkpoint_epochs=1,
    checkpoint_steps=None,
    checkpoint_minutes=None,
    keep=3,
    knn_epochs=0,
    knn_k=20,
    knn_temperature=0.1,
    max_bad_fraction=0.01,
    stop_on_collapse=False,
    verbose=1,
):
    """Trains an encoder on unlabelled images.

    Args:
        data: where the images are, see `data.open_source`: a folder, `"digits"`,
            `"tfds:NAME"`, arrays, a `tf.data.Dataset`, a `Source`.
        out: folder of the run; training continues there if it was interrupted.
        split: part of the data, for sources that have parts.
        labels: `"auto"`, `"none"` or `"folders"` (the first folder level is the
            class). Labels never train; they feed the kNN monitor and, later, the
            evaluation.
        channels: int or None for the data's own.
        bit_depth: 8 or 16, of image files.
        data_dir: folder of prepared TFDS data.
        validation_data: labelled images for the kNN monitor, given like `data`.
        validation_split: their part; alone, it is a part of `data`.
        validation_fraction: part of `data` (class-balanced) to hold out of
            training for that, if there is no `validation_data`.
        method: key of `tfssl.methods.METHODS`.
        hparams: dict, arguments of the method (`{"temperature": 0.5}`).
        encoder: key of `models.ENCODERS`, `"keras.applications.NAME"`, the path
            of a `.keras` file, a function `input_shape -> Keras model`, or (on one
            device) a built Keras model.
        encoder_args: dict, further arguments of the builder (`{"width": 0.25}`).
        recipe: a recipe, its name in `recipes.RECIPES`, or None for the method's.
        image_size: int, size of the (largest) view; None keeps the recipe's.
        augment: False turns every random transform off, to look for mistakes.
        epochs: int, passes over the data.
        batch_size: int, images per step over all replicas together.
        optimizer: key of `optimizers.OPTIMIZERS`, or a Keras optimizer, whose
            own learning rate then holds.
        learning_rate: float, base rate, scaled by `lr_scaling`.
        lr_scaling: `"linear"` (times batch/256), `"sqrt"` (times sqrt(batch)) or
            `"none"`.
        weight_decay: float >= 0.
        warmup_epochs: float, linear warm-up; a half-cosine to 0 follows.
        strategy: `"default"`, `"mirrored"` or `"tpu"`.
        num_replicas: int or None for all devices; `mirrored` only.
        tpu: name or address of the TPU.
        precision: `"float32"`, `"mixed_bfloat16"` or `"mixed_float16"`.
        jit_compile: compile the step with XLA (one device).
        steps_per_execution: int, steps per call into TensorFlow; must divide the
            steps of an epoch.
        seed: int, of weights, order and views.
        resume: continue from the newest checkpoint in `out`, if there is one.
        init_from: checkpoint or run whose weights start this training.
        checkpoint_epochs: int, epochs between checkpoints.
        checkpoint_steps: int or None, save also every so many steps.
        checkpoint_minutes: float or None, save also after so many minutes.
        keep: int, newest checkpoints to keep; the best by kNN stays too.
        knn_epochs: int, epochs between kNN evaluations; 0 turns them off.
        knn_k: int, neighbours.
        knn_temperature: float, of the vote.
        max_bad_fraction: float, share of unreadable images that stops the run.
        stop_on_collapse: stop, rather than warn, on a collapsed embedding.
        verbose: 0 silent, 1 progress bar, 2 one line per epoch.

    Returns:
        A `runs.Run`.

    Raises:
        ValueError: for arguments that cannot work, before training starts.
        TrainingStopped: on a non-finite loss.
        Preempted: after SIGTERM, once the state is saved.
    """
    arguments = dict(locals())
    settings = {key: _described(value) for key, value in arguments.items()}
    _check_choices(method, precision, epochs, batch_size)
    runs.prepare_folder(out)
    train, validation = resolve.sources(**arguments)
    steps_per_epoch = _steps(train, batch_size, steps_per_execution)
    recipe = resolve.recipe(recipe, method, hparams, image_size)
    preprocessing = recipes.preprocessing_for(recipe, train)
    devices = strategies.make(strategy, num_replicas=num_replicas, tpu=tpu)
    strategies.per_replica_batch(devices, batch_size)
    bad_files = pipeline.BadFiles(max_fraction=max_bad_fraction)
    bad_queries = pipeline.BadFiles(max_fraction=max_bad_fraction)
    knn_sets = _knn_sets(
        train, validation, preprocessing, bad_files, bad_queries, arguments
    )
    folder = os.path.join(out, "checkpoints")

    with (
        _precision(precision),
        devices.scope(),
        bad_files_lib.explained(bad_files, bad_queries),
    ):
        keras.utils.set_random_seed(seed)
        input_shape = (recipe[0].size, recipe[0].size, train.channels)
        network = resolve.encoder(encoder, input_shape, encoder_args)
        model = resolve.method(
            method, network, hparams, total_steps=epochs * steps_per_epoch
        )
        model.compile(
            _optimizer(optimizer, steps_per_epoch, arguments),
            jit_compile=jit_compile,
            steps_per_execution=steps_per_execution,
        )
        model.build_optimizer()
        _start_from(model, folder, resume, init_from)
        runs.update(out, settings=settings, versions=runs.versions())
        if verbose:
            print(_summary(model, train, recipe, steps_per_epoch, settings, devices))
        show_views.sheet(
            train, recipe, os.path.join(out, "views.png"), seed=seed, augment=augment
        )
        saver = saving.Saver(
            folder,
            every_epochs=checkpoint_epochs,
            every_steps=checkpoint_steps,
            every_minutes=checkpoint_minutes,
            keep=keep,
        )
        callbacks = [
            monitors.Throughput(batch_size),
            monitors.NonFinite(lambda: checkpoint.latest(folder)),
            monitors.Collapse(
                _fixed_images(train, preprocessing, bad_files), stop=stop_on_collapse
            ),
            *(
                monitors.OnlineKNN(
                    *pair,
                    every=knn_epochs,
                    epochs=epochs,
                    k=knn_k,
                    temperature=knn_temperature,
                )
                for pair in knn_sets
            ),
            monitors.History(out, steps_per_epoch),
            saver,
        ]

        def dataset():
            return strategies.distribute(
                devices,
                lambda shard: data_lib.multiview(
                    train,
                    recipe,
                    batch_size=batch_size,
                    seed=seed,
                    start=int(model.position.numpy()),
                    augment=augment,
                    shard=shard,
                    bad_files=bad_files,
                ),
                batch_size,
            )

        with saver.watching_sigterm():
            _fit(model, dataset, epochs, steps_per_epoch, callbacks, verbose)

    network.preprocessing = preprocessing
    keras_file.save(network, os.path.join(out, "encoder.keras"), preprocessing)
    history = monitors.read_history(os.path.join(out, "metrics.jsonl"))
    results = {
        "steps": int(model.step.numpy()),
        "last_epoch": history[-1] if history else None,
        "best_knn": saver.best,
        "bad_files": list(bad_files.files),
    }
    runs.update(out, results=results)
    if bad_files.count:
        logging.warning(
            "%d unreadable image(s) were skipped: %s",
            bad_files.count,
            ", ".join(bad_files.files[:20]),
        )
    return runs.Run(out, network, model, history, settings)


def _described(value):
    """A JSON-able form of an argument: plain values as they are, objects named."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, dict):
        return {str(k): _described(v) for k, v in value.items()}
    named = getattr(value, "name", None) or getattr(value, "__name__", None)
    return named if isinstance(named, str) else type(value).__name__


def _optimizer(optimizer, steps_per_epoch, arguments):
    if not isinstance(optimizer, str):
        return optimizer
    schedule = schedules.WarmupCosine(
        scaled_rate(arguments),
        warmup_steps=round(arguments["warmup_epochs"] * steps_per_epoch),
        total_steps=arguments["epochs"] * steps_per_epoch,
    )
    return optimizers.build(
        optimizer,
        learning_rate=schedule,
        weight_decay=arguments["weight_decay"],
    )


def scaled_rate(settings):
    """The peak learning rate of these settings."""
    return schedules.scaled_rate(
        settings["learning_rate"], settings["batch_size"], settings["lr_scaling"]
    )


def _check_choices(method, precision, epochs, batch_size):
    if method not in methods.METHODS:
        raise ValueError(
            f"method={method!r} received, expected one of "
            f"{', '.join(sorted(methods.METHODS))}."
        )
    if precision not in PRECISIONS:
        raise ValueError(
            f"precision={precision!r} received, expected one of "
            f"{', '.join(PRECISIONS)}."
        )
    if epochs < 1 or batch_size < 1:
        raise ValueError(
            f"epochs={epochs}, batch_size={batch_size} received, expected both to "
            "be 1 or more."
        )


def _steps(source, batch_size, steps_per_execution):
    steps = pipeline.steps_per_epoch(source, batch_size)
    if steps % steps_per_execution:
        fits = [n for n in range(1, steps + 1) if steps % n == 0]
        raise ValueError(
            f"steps_per_execution={steps_per_execution} does not divide the {steps} "
            f"steps of an epoch; use one of {', '.join(map(str, fits))}."
        )
    return steps


@contextlib.contextmanager
def _precision(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _start_from(model, folder, resume, init_from):
    newest = checkpoint.latest(folder)
    if newest and not resume:
        raise ValueError(
            f"{folder} holds checkpoints and resume is off; choose another --out, "
            "or delete the folder."
        )
    if newest:
        state = checkpoint.restore(newest, model)
        print(f"Resuming at step {state['step']} from {newest}")
    elif init_from:
        path = resolve.checkpoint_path(init_from)
        loaded, unmatched = checkpoint.initialize(path, model)
        print(f"Started from {len(loaded)} variables of {path}")
        for line in unmatched:
            logging.warning("--init_from: %s", line)


def _summary(model, source, recipe, steps_per_epoch, settings, devices):
    """What is about to run, with the numbers that users get wrong most."""
    batch_size = settings["batch_size"]
    lines = [
        f"{type(model).__name__} on {source.name}: {source.num_images:,} images, "
        f"{len(recipe)} views of {'/'.join(str(v.size) for v in recipe)} px "
        f"({recipe.name})",
        f"encoder {model.encoder.name}: {model.encoder.count_params():,} parameters, "
        f"{model.feature_dim} features, {settings['precision']}",
        f"global batch {batch_size} on {devices.num_replicas_in_sync} replica(s), "
        f"{steps_per_epoch} steps per epoch, {settings['epochs']} epochs",
        f"{settings['optimizer']}: base rate {settings['learning_rate']:g}, "
        f"{settings['lr_scaling']} scaling -> {scaled_rate(settings):g}; warm-up "
        f"{settings['warmup_epochs']:g} epochs, then cosine to 0",
    ]
    negatives = model.num_negatives(batch_size)
    if negatives is not None:
        lines.append(f"{negatives:,} negatives per anchor, over all replicas")
        if negatives >= source.num_images:
            lines.append(
                f"more negatives than the {source.num_images:,} images: each image "
                "meets itself among them; lower queue_size"
            )
    chance = model.chance_loss(batch_size)
    if chance is not None:
        lines.append(f"chance-level loss {chance:.4f}: a healthy run falls below it")
    return "\n".join(lines)


def _fixed_images(source, preprocessing, bad_files):
    count = min(_MONITORED_IMAGES, source.num_images)
    dataset = data_lib.labeled(
        source,
        preprocessing,
        batch_size=count,
        indices=np.arange(count),
        bad_files=bad_files,
    )
    batch = next(iter(dataset))
    return tf.boolean_mask(batch["image"], batch["mask"])


def _knn_sets(train, validation, preprocessing, bad_train, bad_queries, settings):
    """`[(bank, queries)]` for the kNN monitor, or `[]` where it is off."""
    knn_epochs = settings["knn_epochs"]
    if not knn_epochs:
        return []
    missing = None
    if validation is None:
        missing = "validation images"
    elif train.labels is None or validation.labels is None:
        missing = "labels"
    if missing:
        raise ValueError(
            f"knn_epochs={knn_epochs} asks for kNN accuracy, but there are no "
            f"{missing}; give validation_data or validation_fraction (and "
            "labels='folders' for a folder), or set knn_epochs=0."
        )
    bank, queries = (
        data_lib.labeled(
            source,
            preprocessing,
            batch_size=settings["batch_size"],
            bad_files=bad,
        )
        for source, bad in ((train, bad_train), (validation, bad_queries))
    )
    return [(bank, queries)]


def _fit(model, dataset, epochs, steps_per_epoch, callbacks, verbose):
    """`fit`, continuing an interrupted epoch with just its remaining steps."""
    epoch, inside = divmod(int(model.step.numpy()), steps_per_epoch)
    if inside and epoch < epochs:
        model.fit(
            dataset(),
            initial_epoch=epoch,
            epochs=epoch + 1,
            steps_per_epoch=steps_per_epoch - inside,
            callbacks=[*callbacks, saving.ContinueEpoch()],
            verbose=verbose,
            shuffle=False,
        )
        epoch += 1
    if epoch < epochs:
        model.fit(
            dataset(),
            initial_epoch=epoch,
            epochs=epochs,
            steps_per_epoch=steps_per_epoch,
            callbacks=callbacks,
            verbose=verbose,
            shuffle=False,
        )
