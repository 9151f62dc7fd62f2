"""The training of any `Method`: from a plan to a record.

A task settles its `Plan`, says how its model is made, and what watches it. The
`Trainer` does what every training does: it starts or resumes, compares a start with the
folder's record, saves, hears signals, and writes what came of it.
"""

import contextlib
import dataclasses
import os

import keras

from tfssl import data as data_lib
from tfssl import formats, models
from tfssl.data import bad_files as bad_files_lib
from tfssl.data import order, pipeline, service, views
from tfssl.data.views import recipes
from tfssl.optimizers import slots
from tfssl.tasks import (
    accept,
    epoch_images,
    fitting,
    held_images,
    runs,
    settings,
    start,
    teachers,
)
from tfssl.training import checkpoint, monitors, saving, stalls
from tfssl.training import history as history_lib
from tfssl.training import strategy as strategies
from tfssl.training import workers as workers_lib

# What ends a training on all workers at the same step.
_AGREED = (
    saving.Preempted,
    saving.Interrupted,
    monitors.TrainingStopped,
    checkpoint.SaveError,
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a training works on, settled before anything is built or written.

    Attributes:
        train: source of the training images.
        recipe: their views.
        epochs: int.
        batch_size: int, over all replicas.
        seed: int, of weights, order and views.
        augment: False turns every random transform off.
        repeats: int, how often an image of a batch stands in it.
        bad_files: `BadFiles`, which collects unreadable training images.
        task: name of what this training is, for the record.
        own_preprocessing: `Preprocessing` that the encoder was made for; None for the
            one that fits the recipe.
        compared: dict of plain values that a start in the folder is compared by,
            beside the images, views and settings: name -> what it came to.
        teacher: `teachers.Teacher` that is learned from, or None.
    """

    train: data_lib.sources.Source
    recipe: recipes.Recipe
    epochs: int
    batch_size: int
    seed: int = 0
    augment: bool = True
    repeats: int = 1
    bad_files: pipeline.BadFiles = dataclasses.field(default_factory=pipeline.BadFiles)
    task: str = "pretrain"
    own_preprocessing: data_lib.Preprocessing | None = None
    compared: dict = dataclasses.field(default_factory=dict)
    teacher: teachers.Teacher | None = None

    @property
    def steps_per_epoch(self):
        return pipeline.steps_per_epoch(self.train, self.batch_size)

    @property
    def total_steps(self):
        return self.epochs * self.steps_per_epoch

    @property
    def preprocessing(self):
        """What makes one of these images an input of the encoder, without chance."""
        if self.own_preprocessing is not None:
            return self.own_preprocessing
        return recipes.preprocessing_for(self.recipe, self.train)

    def check(self, strategy, steps_per_execution):
        """Raises `ValueError` for batches that do not divide."""
        strategies.per_replica_batch(strategy, self.batch_size)
        order.check_repeats(self.train, self.batch_size, self.repeats)
        _check_divides(steps_per_execution, self.steps_per_epoch, "of an epoch")

    def check_rest(self, step, steps_per_execution):
        """Raises `ValueError` if steps from here on would run beyond their epoch."""
        rest = -step % self.steps_per_epoch
        if rest and step < self.total_steps:
            left = f"that are left of an epoch at step {step}"
            _check_divides(steps_per_execution, rest, left)


def _check_divides(steps_per_execution, steps, what):
    if steps % steps_per_execution:
        fits = [n for n in range(1, steps + 1) if steps % n == 0]
        raise ValueError(
            f"steps_per_execution={steps_per_execution} does not divide the {steps} "
            f"steps {what}; use one of {', '.join(map(str, fits))}."
        )


class Trainer:
    """Trains a `Method` by a plan, in a folder of its own.

    Args:
        plan: `Plan`.
        out: the folder.
        given: dict, the flat arguments of the task, for the record.
        strategy: `tf.distribute.Strategy`, made before TensorFlow ran anything.
        optimization: `groups.Optimization`.
        devices: `groups.Devices`.
        saves: `groups.Saving`.
        verbose: of `fitting.fit`.

    Attributes:
        workers: `workers.Workers`.
        images_at_once: int, of a pass on one device, see `strategy.images_at_once`.

    Raises:
        ValueError: for a plan that these devices cannot divide.
    """

    def __init__(
        self,
        plan,
        out,
        given,
        *,
        strategy,
        optimization,
        devices,
        saves,
        verbose=1,
    ):
        plan.check(strategy, devices.steps_per_execution)
        self.plan = plan
        self.out = out
        self.workers = workers_lib.Workers(strategy)
        self.images_at_once = strategies.images_at_once(strategy, plan.batch_size)
        self._given = given
        self._strategy = strategy
        self._optimization = optimization
        self._devices = devices
        place = devices.place_of_views(strategy) if plan.augment else "host"
        self._on_device = place == "device"
        self._saves = saves
        self._verbose = verbose

    @property
    def checkpoints(self):
        """The folder of checkpoints."""
        return os.path.join(self.out, "checkpoints")

    def check_folder(self):
        """Raises `ValueError` where `train` would refuse what is in the folder.

        For a training that begins when another one has ended. Nothing is written.
        """
        with (
            self.workers.losses_explained(),
            accept.alone_in(self.out, self.workers),
        ):
            accept.Record(self._given, self.plan, self.workers, judging=None).check()
            start.check_resume(self.checkpoints, self._saves.resume)

    def train(self, make_model, watch):
        """Trains from where the folder stands to the plan's last epoch.

        Args:
            make_model: function without arguments -> an uncompiled `Method`.
            watch: `monitoring.Watch`, or another with its functions.

        Returns:
            A `runs.Run`.

        Raises:
            ValueError: for a start that cannot be accepted; nothing is written then.
            TrainingStopped: on a non-finite loss or weight.
            Preempted: after SIGTERM (on any worker), or when the data service is lost,
                once the state is saved.
            Interrupted: after Ctrl-C, likewise; it is a `KeyboardInterrupt`.
            WorkerLost: if another worker is gone.
            SaveError: if the last checkpoint cannot be written.
        """
        plan, workers = self.plan, self.workers
        with (
            workers.losses_explained(),
            # What the chief writes is there for all then.
            workers.parting(*_AGREED),
            accept.alone_in(self.out, workers),
            bad_files_lib.explained(plan.bad_files, *watch.bad_files),
            service.errors_explained(),
        ):
            fitting.check_callbacks(self._given["callbacks"])
            record = accept.Record(self._given, plan, workers, watch.judging)
            record.check()
            with self._surroundings():
                model = self._compiled(make_model())
                model.check_source(plan.train)
                model.check_run(plan.batch_size, plan.train)
                told = start.summary(
                    model, plan, self._optimization, self._devices, self._strategy
                )
                told = "\n".join([*told, *watch.told])
                saves = self._saves
                resumed = start.start(
                    model,
                    self.checkpoints,
                    saves.resume,
                    saves.init_from,
                    workers,
                    verbose=self._given["verbose"],
                )
                plan.check_rest(
                    int(model.step.numpy()), self._devices.steps_per_execution
                )
                watchers = watch.callbacks(model, self, resumed)
                self._check_batches(model)
                record.accept(model, told)
                history, saver = self._books(model, watch, resumed, record.since)
                with (
                    saver.watching_signals(),
                    stalls.watched(
                        model, saver, data_service=self._devices.data_service
                    ),
                ):
                    fitting.fit(
                        model,
                        lambda sampling: self._batches(model, sampling),
                        plan.epochs,
                        plan.steps_per_epoch,
                        [*watchers, saver],
                        history,
                        self._verbose if workers.is_chief else 0,
                        self._epoch_images(model),
                    )
                    if saver.model is not None:  # None if there was nothing to train.
                        saver.save(required=True)
            encoder, head = model.product()
            record.finish(model, encoder, head, history.lines, saver)
        trained = formats.Encoder(encoder, plan.preprocessing)
        recorded = settings.recorded(self._given)
        return runs.Run(self.out, trained, model, history.lines, recorded)

    @contextlib.contextmanager
    def _surroundings(self):
        """The arithmetic, the devices and the seed that models are made under."""
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(self._devices.precision)
        try:
            with self._strategy.scope():
                keras.utils.set_random_seed(self.plan.seed)
                yield
        finally:
            keras.config.set_dtype_policy(before)

    def _compiled(self, model):
        plan = self.plan
        if self._devices.remat:
            models.remat.switch_on(model.encoder)
        optimizer = self._optimization.make(
            plan.batch_size, plan.epochs, plan.steps_per_epoch
        )
        if slots.innermost(optimizer).use_ema:
            raise ValueError(
                "The optimizer has use_ema=True, whose averages replace the weights at "
                "every end of Keras's fit, which is called several times here; leave "
                "it out (fine-tuning has averaging=… instead)."
            )
        model.compile(
            optimizer,
            jit_compile=self._devices.jit_compile,
            finish=views.finishing(plan.recipe) if self._on_device else None,
            steps_per_execution=self._devices.steps_per_execution,
        )
        model.build_optimizer()
        if plan.augment:
            held_images.hold(model, plan, self._devices)
        return model

    def _epoch_images(self, model):
        """What the method gets before an epoch."""
        return epoch_images.EpochImages(
            model.encoder,
            self.plan,
            self.workers,
            # Views of its own, not those that the first epoch will train on.
            first_views=lambda: self._batches(model, seed=self.plan.seed + 1),
            images_at_once=self.images_at_once,
        )

    def _batches(self, model, sampling=None, seed=None):
        """The training input from where the model stands."""
        plan = self.plan
        return strategies.distribute(
            self._strategy,
            lambda shard: data_lib.multiview(
                plan.train,
                plan.recipe,
                batch_size=plan.batch_size,
                seed=plan.seed if seed is None else seed,
                start=model.reached.start(shard),
                sampling=sampling,
                repeats=plan.repeats,
                augment=plan.augment,
                augment_on="device" if self._on_device else "host",
                images_on=model.images_on,
                shard=shard,
                bad_files=plan.bad_files,
                with_labels=model.with_labels,
                data_service=self._devices.data_service,
            ),
            plan.batch_size,
        )

    def _check_batches(self, model):
        """Raises `ValueError` where a data service does not make the batches."""
        if (
            self._devices.data_service
            and int(model.step.numpy()) < self.plan.total_steps
        ):
            self._batches(model)

    def _books(self, model, watch, resumed, since):
        """What writes down: `(history, saver)`; the best is one after the step."""
        step, saves = int(model.step.numpy()), self._saves
        history = history_lib.History(
            self.out, self.plan.steps_per_epoch, step=step, workers=self.workers
        )
        every = (
            saves.checkpoint_epochs * self.plan.steps_per_epoch,
            saves.checkpoint_steps,
        )
        saver = saving.Saver(
            self.checkpoints,
            every_steps=[steps for steps in every if steps],
            every_minutes=saves.checkpoint_minutes,
            keep=saves.keep,
            best_by=watch.best_by,
            also=watch.variables,
            workers=self.workers,
            lines=[line for line in history.lines if line["step"] > since],
            saved_step=step if resumed else None,
        )
        return history, saver
