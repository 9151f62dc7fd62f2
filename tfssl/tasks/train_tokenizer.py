"""Training of a visual tokenizer: from images to an alphabet for them, in one call."""

from typing import Any

from tfssl import files, methods, models
from tfssl.data import pipeline
from tfssl.tasks import (
    accept,
    arguments,
    cuts,
    groups,
    tokenizer_results,
    tokenizing,
    trainer,
)
from tfssl.tasks.arguments import Path


@arguments.task
def train_tokenizer(
    data: Any = "digits",
    out: Path = "runs/tokenizer",
    *,
    images: groups.TrainingImages,
    validation: groups.Validation,
    network: tokenizing.Network,
    learning: tokenizing.Learning,
    optimization: tokenizing.Optimization,
    devices: groups.Devices,
    seed: groups.Seed = 0,
    saves: groups.Saving,
    monitors: tokenizing.Watching,
    hooks: groups.Hooks,
):
    """Trains a tokenizer, the discrete variational autoencoder of DALL-E.

    It makes a grid of whole numbers of an image, and an image of them, see
    `models.Tokenizer` and `methods.DVAE`; BEiT learns to predict these numbers. The
    run's folder is like that of a pre-training, and continues like it; it ends with
    `tokenizer.keras` (`tfssl.load_tokenizer`, `tfssl.export`), `tokenizer.json` and
    `tokenizer.html`, which draws images and what is left of them.

    Args:
        data: where the images are, given as for `tfssl.pretrain`. Labels are not used.
        out: folder of the run. Training continues there if it was interrupted.
        images: see `groups.TrainingImages`.
        validation: see `groups.Validation`; the error and the use of codes at the end
            are of these images, else of training images.
        network: see `tokenizing.Network`.
        learning: see `tokenizing.Learning`.
        optimization: see `groups.Optimization`.
        devices: see `groups.Devices`.
        seed: seed of weights, order, views and samples.
        saves: see `groups.Saving`.
        monitors: see `tokenizing.Watching`.
        hooks: see `groups.Hooks`.

    Returns:
        A `runs.Run`, whose `method` is a `DVAE`.

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
    given = arguments.flat(train_tokenizer, locals())
    accept.check_names(saves.allow_changes)
    # First: several workers must meet before TensorFlow runs anything.
    strategy = devices.make_strategy()
    cuts.check(saves.init_from, "init_from", "train_tokenizer", given)
    train, held_out = validation.sources(data, images, seed, unlabelled=True)
    plan = trainer.Plan(
        images.keep(train),
        learning.view(),
        epochs=learning.epochs,
        batch_size=learning.batch_size,
        seed=seed,
        augment=learning.augment,
        bad_files=pipeline.BadFiles(max_fraction=monitors.max_bad_fraction),
        task="train_tokenizer",
    )
    training = trainer.Trainer(
        plan,
        out,
        given,
        strategy=strategy,
        optimization=optimization,
        devices=devices,
        saves=saves,
        verbose=hooks.verbose,
    )
    watch = tokenizing.Watch(plan, monitors, hooks.callbacks)

    def make_model():
        built = network.build(train.channels)
        models.check_images(built, plan.recipe[0].size, plan.recipe[0].size)
        return methods.DVAE(built, **learning.of_method(plan))

    run = training.train(make_model, watch)
    tokenizer_results.write(run, held_out, training, hooks.verbose)
    return run
