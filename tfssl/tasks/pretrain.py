"""Pre-training from images to a saved encoder, in one call."""

import contextlib
import os

import keras

from tfssl import data as data_lib
from tfssl import files
from tfssl.data import bad_files as bad_files_lib
from tfssl.data import pipeline, recipes, service
from tfssl.tasks import (
    accept,
    bounds,
    clustering,
    fitting,
    monitoring,
    online_probe,
    resolve,
    runs,
    settings,
    start,
)
from tfssl.training import history as history_lib
from tfssl.training import saving, stalls
from tfssl.training import strategy as strategies
from tfssl.training import workers as workers_lib

PRECISIONS = bounds.PRECISIONS


def pretrain(
    data="digits",
    out="runs/pretrain",
    *,
    split=None,
    labels="auto",
    channels=None,
    bit_depth=8,
    data_dir=None,
    data_args=None,
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
    optimizer_args=None,
    learning_rate=0.3,
    lr_scaling="linear",
    lr_schedule="cosine",
    lr_start=0.0,
    lr_final=0.0,
    lr_drops=None,
    lr_drop_factor=0.1,
    weight_decay=1e-6,
    warmup_epochs=10.0,
    strategy="default",
    num_replicas=None,
    tpu=None,
    data_service=None,
    precision="float32",
    jit_compile="auto",
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
    online_probe_epochs=0,
    online_probe_data=None,
    online_probe_split=None,
    online_probe_steps=1,
    max_bad_fraction=0.01,
    stop_on_collapse=False,
    allow_changes=(),
    on_accept=None,
    verbose=1,
):
    """Trains an encoder on unlabelled images.

    Args:
        data: where the images are, see `data.open_source`: a folder, `"digits"`,
            `"tfds:NAME"`, arrays, a `tf.data.Dataset`, a `Source`.
        out: folder of the run; training continues there if it was interrupted, with
            the settings that it was begun with (see `allow_changes`). One process at
            a time.
        split: part of the data, for sources that have parts.
        labels: `"auto"`, `"none"` or `"folders"` (the first folder level is the
            class). Labels never train; they feed the kNN monitor and, later, the
            evaluation.
        channels: int or None for the data's own.
        bit_depth: 8 or 16, of image files.
        data_dir: folder of prepared TFDS data.
        data_args: dict, further arguments of `data.open_source` (`{"root": …}`), for
            `data`, and for other data of the same kind.
        validation_data: labelled images for the kNN monitor, given like `data`.
        validation_split: their part; alone, it is a part of `data`.
        validation_fraction: part of `data` (class-balanced; of its labelled images,
            if some are not) to hold out of training for that, if there is no
            `validation_data`.
        method: key of `tfssl.methods.METHODS`.
        hparams: dict, arguments of the method (`{"temperature": 0.5}`).
        encoder: key of `models.ENCODERS`, `"keras.applications.NAME"`, the path
            of a `.keras` file, a function `input_shape -> Keras model`, or (on one
            device) a built Keras model.
            An encoder that takes pixels up to 255 gets them from a layer in front.
        encoder_args: dict, further arguments of the builder (`{"width": 0.25}`).
        recipe: a recipe, its name in `recipes.RECIPES`, or None for the method's.
        image_size: int, size of the (largest) view; None keeps the recipe's.
        augment: False turns every random transform off, to look for mistakes.
        epochs: int, passes over the data.
        batch_size: int, images per step over all replicas together.
        optimizer: key of `optimizers.OPTIMIZERS`, or a Keras optimizer, whose
            own learning rate then holds.
        optimizer_args: dict, further arguments of the optimizer's class
            (`{"momentum_form": "adapted"}`).
        learning_rate: float, base rate, scaled by `lr_scaling`.
        lr_scaling: `"linear"` (times batch/256), `"sqrt"` (times sqrt(batch)) or
            `"none"`.
        lr_schedule: `"cosine"`, half a cosine after the warm-up, `"cosine_epochs"`, the
            same with one rate for all steps of an epoch (MoCo v2), or `"steps"`, drops
            at `lr_drops`, or a constant rate without them.
        lr_start: float, the rate at the beginning of the warm-up, as a share of the
            peak (SwAV at batch 4096: 0.0625).
        lr_final: float, that at the end of the cosine (SwAV: 0.001).
        lr_drops: epochs from which on the rate is multiplied once more by
            `lr_drop_factor` (MoCo v1: 120 and 160).
        lr_drop_factor: float > 0.
        weight_decay: float >= 0.
        warmup_epochs: float, linear warm-up.
        strategy: `"default"`, `"mirrored"`, `"multi_worker"` (see
            docs/distributed.md) or `"tpu"`.
        num_replicas: int or None for all devices; `mirrored` only.
        tpu: name or address of the TPU.
        data_service: None, or `"grpc://host:port"` (several with commas between) of
            hosts that make the views, see docs/distributed.md.
        precision: `"float32"`, `"mixed_bfloat16"` or `"mixed_float16"`.
        jit_compile: compile the step with XLA (one device); `"auto"` on one GPU only.
        steps_per_execution: int, steps per call into TensorFlow; must divide the
            steps of an epoch.
        seed: int, of weights, order and views.
        resume: continue from the newest checkpoint in `out`, if there is one.
        init_from: checkpoint or run whose weights start this training.
        checkpoint_epochs: int, epochs between checkpoints.
        checkpoint_steps: int or None, save also every so many steps.
        checkpoint_minutes: float or None, save also after so many minutes.
        keep: int, newest checkpoints to keep; the best by kNN stays too.
        knn_epochs: int, epochs between kNN evaluations, on the images that have a
            label; 0 turns them off.
        knn_k: int, neighbours.
        knn_temperature: float, of the vote.
        online_probe_epochs: int, epochs between accuracies of a linear classifier that
            is trained beside the encoder and does not touch it; 0 turns it off.
        online_probe_data: labelled images that it trains on, given like `data`; None
            takes the training images, if they have labels.
        online_probe_split: their part; alone, it is a part of `data`.
        online_probe_steps: int, training steps between two steps of the classifier.
        max_bad_fraction: float, share of unreadable images that stops the run.
        stop_on_collapse: stop, rather than warn, on a collapsed embedding.
        allow_changes: names of settings that may differ from those with which the run
            in `out` was begun (`("learning_rate",)`), though another result comes of
            them; `run.json` lists such changes.
        on_accept: function without arguments, or None; called, on the chief, when the
            start is accepted and before the first step.
        verbose: 0 silent, 1 progress bar, 2 one line per epoch.

    Returns:
        A `runs.Run`.

    Raises:
        ValueError: for arguments that cannot work, before training starts and
            anything is written.
        TrainingStopped: on a non-finite loss or weight.
        Preempted: after SIGTERM (on any worker), or when the data service is lost,
            once the state is saved.
        Interrupted: after Ctrl-C, likewise; it is a `KeyboardInterrupt`.
        WorkerLost: if another worker is gone.
        SaveError: if the last checkpoint cannot be written.
    """
    out = files.expanded(out)
    arguments = dict(locals())
    bounds.pretrain(arguments)
    accept.check_names(allow_changes)
    # First: several workers must meet before TensorFlow runs anything.
    devices = strategies.make(strategy, num_replicas=num_replicas, tpu=tpu)
    strategies.per_replica_batch(devices, batch_size)
    workers = workers_lib.Workers(devices)
    train, validation = resolve.sources(**arguments)
    steps_per_epoch = _steps(train, batch_size, steps_per_execution)
    recipe = resolve.recipe(recipe, method, hparams, image_size)
    preprocessing = recipes.preprocessing_for(recipe, train)
    bad_files = pipeline.BadFiles(max_fraction=max_bad_fraction)
    bad_queries = pipeline.BadFiles(max_fraction=max_bad_fraction)
    knn_sets, of_labelled = monitoring.knn_sets(
        train, validation, preprocessing, bad_files, bad_queries, arguments
    )
    labelled = online_probe.labelled(train, validation, arguments)
    bad_labelled = pipeline.BadFiles(max_fraction=max_bad_fraction)
    folder = os.path.join(out, "checkpoints")

    with (
        workers.losses_explained(),
        accept.alone_in(out, workers),
        bad_files_lib.explained(bad_files, bad_queries, bad_labelled),
        service.errors_explained(),
    ):
        record = accept.Record(arguments, train, recipe, steps_per_epoch, workers)
        record.check()
        with _precision(precision), devices.scope():
            keras.utils.set_random_seed(seed)
            shape = resolve.input_shape(recipe, train)
            network = resolve.encoder(encoder, shape, encoder_args, preprocessing)
            model = resolve.method(
                method,
                network,
                hparams,
                total_steps=epochs * steps_per_epoch,
                steps_per_epoch=steps_per_epoch,
                num_images=train.num_images,
                seed=seed,
            )
            model.compile(
                resolve.optimizer(optimizer, steps_per_epoch, arguments),
                jit_compile=jit_compile,
                steps_per_execution=steps_per_execution,
            )
            model.build_optimizer()
            told = start.summary(
                model, train, recipe, settings.recorded(arguments), devices
            )
            told = "\n".join([told, *of_labelled])
            resumed = start.start(model, folder, resume, init_from, workers)
            probes = online_probe.callbacks(
                labelled,
                validation,
                recipe,
                preprocessing,
                model,
                (bad_labelled, bad_queries),
                arguments,
                resumed,
            )

            def dataset(sampling=None, seed=seed):
                return strategies.distribute(
                    devices,
                    lambda shard: data_lib.multiview(
                        train,
                        recipe,
                        batch_size=batch_size,
                        seed=seed,
                        start=int(model.position.numpy()),
                        sampling=sampling,
                        augment=augment,
                        shard=shard,
                        bad_files=bad_files,
                        data_service=data_service,
                    ),
                    batch_size,
                )

            between = None
            if model.clusters:
                between = clustering.Clustering(
                    model,
                    train,
                    preprocessing,
                    # Views of its own, not those that the first epoch will train on.
                    first_views=lambda: dataset(seed=seed + 1),
                    batch_size=batch_size,
                    bad_files=bad_files,
                    workers=workers,
                )
            watchers = monitoring.callbacks(
                monitoring.fixed_images(train, preprocessing, bad_files),
                knn_sets,
                probes,
                (bad_files, bad_queries, bad_labelled),
                workers,
                arguments,
                clusters=between is not None,
            )

            record.accept(model, told)
            step = int(model.step.numpy())
            history = history_lib.History(
                out, steps_per_epoch, step=step, workers=workers
            )
            every_steps = (checkpoint_epochs * steps_per_epoch, checkpoint_steps)
            saver = saving.Saver(
                folder,
                every_steps=[steps for steps in every_steps if steps],
                every_minutes=checkpoint_minutes,
                keep=keep,
                also=lambda: {k: v for p in probes for k, v in p.variables().items()},
                workers=workers,
                lines=history.lines,
                saved_step=step if resumed else None,
            )
            with (
                saver.watching_signals(),
                stalls.watched(model, saver, data_service=data_service),
            ):
                fitting.fit(
                    model,
                    dataset,
                    epochs,
                    steps_per_epoch,
                    [*watchers, saver],
                    history,
                    verbose if workers.is_chief else 0,
                    between,
                )
                if saver.model is not None:  # None if there was nothing to train.
                    saver.save(required=True)
        network.preprocessing = preprocessing
        record.finish(model, history.lines, saver.best, bad_files)
        workers.wait()  # What the chief writes is there for all.
    return runs.Run(out, network, model, history.lines, settings.recorded(arguments))


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
