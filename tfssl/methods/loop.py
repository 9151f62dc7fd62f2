"""How a method's steps are run, where stock Keras 3 fails.

* `fit` under `MultiWorkerMirroredStrategy` first draws a batch to build the model, and
  then reduces scalar metrics over replicas: both fail. Here everything is built
  beforehand, and metrics are read once, in cross-replica context.
* Several steps of one `tf.function` are a `tf.while_loop` under any strategy.
* The time that steps wait for their batch is measured, and the wait can be ended.
* What the host left of a batch to the device is done before its step.
* Averages of the optimizer come to what it trains, and to nothing else.
"""

import contextlib
import math

import keras
import tensorflow as tf

from tfssl import ema, input_wait, internals, pieces, replicas
from tfssl.data import sources
from tfssl.data.views import device
from tfssl.methods import batch_checks, loss_scale, optimizer_checks


class StepLoop(batch_checks.CheckedOnHost, internals.BuiltBeforehand, keras.Model):
    """A Keras model with train and test functions of its own.

    A subclass has `train_step(batch)` and `test_step(batch)` (perhaps
    `fill_step(batch)`), which run on each replica and return nothing, `metrics`,
    `followers`, `learned_variables` for the optimizer, and `with_labels`.

    Args:
        name: optional name of the model.

    Attributes:
        input_wait: float64 scalar tensor, seconds that the steps of this process
            have waited for their batch.
        finish: as given to `compile`.
        waiting: `input_wait.InputWait`, whether a step waits for its batch just now.
    """

    def __init__(self, *, name=None):
        super().__init__(name=name)
        # A tensor, not a weight: it describes this process, not the training.
        self.input_wait = tf.constant(0.0, tf.float64)
        self.waiting = input_wait.InputWait()
        self.finish = None
        self._images = None
        self._ready_steps = 0
        self._source_fits = False

    def compile(
        self,
        optimizer,
        *,
        jit_compile="auto",
        run_eagerly=False,
        finish=None,
        **kwargs,
    ):
        """Sets the optimizer and how steps are run.

        Args:
            optimizer: a Keras optimizer, made in the scope of the method's strategy, or
                its name; see `loss_scale.scaled`.
            jit_compile: bool, compile each step with XLA; of several replicas, which
                exchange numbers in the middle of a step, the parts between (a TPU
                compiles by itself). `"auto"` does so on GPUs, where it is several
                times as fast, unless a layer says that it cannot; on a CPU it would
                slow training down. The attribute `xla` says what was chosen.
            run_eagerly: bool, for debugging on one replica.
            finish: function of a batch -> the batch that a step gets, called on each
                replica with its part: `data.views.finishing(recipe)` for the batches of
                `data.multiview(…, augment_on="device")`. On a GPU it is compiled with
                XLA, also where steps are not. None takes batches as they come.
            **kwargs: `steps_per_execution`; see `keras.Model.compile`.

        Raises:
            ValueError: for a combination that is known to fail or hang.
        """
        for given in ("loss", "metrics", "weighted_metrics", "loss_weights"):
            if kwargs.get(given) is not None:
                raise ValueError(
                    f"compile received {given}=, but {type(self).__name__} brings "
                    "its own loss and metrics; pass the optimizer only."
                )
        if jit_compile not in (True, False, "auto"):
            raise ValueError(
                f"jit_compile={jit_compile!r} received, expected True, False or 'auto'."
            )
        if jit_compile == "auto":
            jit_compile = not run_eagerly and self._gains_from_xla()
        count = self.distribute_strategy.num_replicas_in_sync
        if count > 1 and run_eagerly:
            raise ValueError(
                f"run_eagerly=True received with {count} replicas, where it hangs; set "
                "run_eagerly=False or train on one replica."
            )
        self.finish = finish
        if finish is None:
            self._images = None  # Nothing would make views of them.
        with self.distribute_strategy.scope():  # For what is made of a name.
            optimizer = loss_scale.scaled(optimizer, self)
        optimizer_checks.check(optimizer, self.distribute_strategy)
        super().compile(
            optimizer=optimizer,
            jit_compile=jit_compile,
            run_eagerly=run_eagerly,
            **kwargs,
        )

    @property
    def xla(self):
        """What XLA compiles of a step, in words: "on", "off" or "part by part"."""
        if not self.jit_compile:
            return "off"
        several = self.distribute_strategy.num_replicas_in_sync > 1
        return "part by part" if several else "on"

    @property
    def augment_on(self):
        """Where views are finished: on the "device", by `finish`, or on the "host"."""
        return "host" if self.finish is None else "device"

    @property
    def images_on(self):
        """Where images lie: on the "device", by `hold_images`, or on the "host"."""
        return "host" if self._images is None else "device"

    @property
    def held_bytes(self):
        """What images take of each device, an int."""
        if self._images is None:
            return 0
        (held,) = self._images.values()
        images = self.distribute_strategy.experimental_local_results(held)[0]
        return images.dtype.size * images.shape.num_elements()

    def hold_images(self, source):
        """Puts all images on each device, for `data.multiview(images_on="device")`.

        Args:
            source: the `data.sources.Source` of those batches; its images must have one
                size and be decoded in memory.

        Raises:
            ValueError: if they do not, or nothing given to `compile` makes views there.
        """
        if self.finish is None:
            raise ValueError(
                "hold_images was called, and nothing makes views of images on the "
                "device; pass finish=tfssl.data.views.finishing(recipe) to compile."
            )
        if not isinstance(source, sources.Source):
            raise ValueError(
                f"hold_images received a {type(source).__name__}, expected a Source; "
                "open it with tfssl.data.open_source."
            )
        source = source.ready()
        if source.stacked is None:
            raise ValueError(
                f"{source.name} has no decoded images of one size in memory; use "
                "arrays, or cache_gib for files of one size, or images_on='host'."
            )
        pixels = source.stacked(tf.range(source.num_images))
        held = replicas.copy_to_each(self.distribute_strategy, pixels)
        self._images = {device.mark(source): held}
        self.train_function = self.test_function = None  # They hold those before.

    def check_source(self, source):
        """Raises `ValueError` for more images than a method with `num_images` has.

        After it no training step looks at the numbers of its images, as all others do
        on the host, but for a dataset that is distributed already.

        Args:
            source: `data.sources.Source`, whose images will train.
        """
        batch_checks.source_fits(self, source)
        self._source_fits = True

    def _gains_from_xla(self):
        if replicas.kind_of_devices(self.distribute_strategy) != "GPU":
            return False
        return all(layer.supports_jit for layer in internals.layers_of(self))

    @property
    def trainable_weights(self):
        """`learned_variables`: Keras gives these the optimizer's averages (`use_ema`).

        It pairs them in order at the end of `fit`, and asks for them beside that only
        to find penalties and to count; `trainable_variables` has the followers' too.
        """
        return self.learned_variables

    @property
    def non_trainable_weights(self):
        """All other weights, those of followers among them."""
        learned = {id(variable) for variable in self.learned_variables}
        return [weight for weight in self.weights if id(weight) not in learned]

    def build_optimizer(self):
        """Creates the optimizer's slots, so that nothing is made in a step."""
        optimizer = getattr(self, "optimizer", None)
        if optimizer is not None and not optimizer.built:
            with self.distribute_strategy.scope():
                optimizer.build(self.learned_variables)

    def make_train_function(self, force=False):
        self._check_optimizer("fit")
        for follower in self.followers:
            if isinstance(follower, ema.TargetNetwork):
                follower.check()
        if self.train_function is None or force:
            self.build_optimizer()
            self.train_function = self._while_ready(self._loop_over(self.train_step))
        self._ready_steps = 0  # A callback may still make what is missing.

    def ready_steps(self):
        """How many training steps may follow before it is to be asked again.

        Asked on the host, at the first step of every `fit`.

        Raises:
            ValueError: if none may, since there is nothing yet to learn from.
        """
        return math.inf

    def _while_ready(self, function):
        def checked(iterator):
            if self._ready_steps <= 0:
                self._ready_steps = self.ready_steps()
            self._ready_steps -= self.steps_per_execution
            return function(iterator)

        return checked

    def _check_optimizer(self, before):
        if getattr(self, "optimizer", None) is None:
            raise ValueError(
                f"{self.name} has no optimizer (a file of a method keeps none); call "
                f"compile(optimizer) before {before}."
            )

    def fill(self, iterator, steps):
        """Runs `fill_step` on `steps` batches: what a method stores without learning.

        Args:
            iterator: iterator of (distributed) batches.
            steps: int, a multiple of `steps_per_execution`.
        """
        function = self._loop_over(self.fill_step)
        for _ in range(steps // self.steps_per_execution):
            function(iterator)

    def make_test_function(self, force=False):
        if self.test_function is None or force:
            self.test_function = self._loop_over(self.test_step)

    def train_on_batch(
        self, x, y=None, sample_weight=None, class_weight=None, return_dict=False
    ):
        """One training step on one batch, as `keras.Model.train_on_batch`.

        Args:
            x: dict, one element of the data set that `fit` takes.
            y: not taken; a batch holds all that it needs.
            sample_weight: not taken.
            class_weight: not taken.
            return_dict: bool, for a dict of the metrics of this batch instead of a
                list in the order of `metrics_names`.

        Raises:
            ValueError: for anything beside a batch, for several replicas, which take
                their parts of a data set only, and for several steps per execution.
        """
        self._check_on_batch("train_on_batch", x, y, sample_weight, class_weight)
        self.make_train_function()
        return self._on_batch(self.train_function, x, return_dict)

    def test_on_batch(self, x, y=None, sample_weight=None, return_dict=False):
        """The metrics of one batch, as `keras.Model.test_on_batch`.

        See `train_on_batch` for the arguments and what is refused.
        """
        self._check_on_batch("test_on_batch", x, y, sample_weight)
        self.make_test_function()
        return self._on_batch(self.test_function, x, return_dict)

    def _check_on_batch(self, name, batch, *others):
        batch_checks.single(self, name, batch, others)
        self._check_optimizer(name)

    def _on_batch(self, function, batch, return_dict):
        self.reset_metrics()
        logs = function(iter(tf.data.Dataset.from_tensors(batch)))
        logs = {name: float(value) for name, value in logs.items()}
        return logs if return_dict else [logs[mean.name] for mean in self.metrics]

    def _loop_over(self, step):
        """`iterator -> metrics`, running `steps_per_execution` steps on all replicas.

        One `tf.function` for any strategy, which reads the metrics once, at the
        end and in cross-replica context.
        """
        strategy, finish = self.distribute_strategy, self._finishing()
        in_parts = self.xla == "part by part"
        compiling = pieces.compiling if in_parts else contextlib.nullcontext

        def on_replica(batch, *arrived):
            # Without the dependency TensorFlow may run what does not read the
            # batch (a counter) before the iterator reports its end.
            with (
                compiling(),
                tf.control_dependencies([*tf.nest.flatten(batch), *arrived]),
            ):
                step(finish(batch_checks.taken(self, batch)))

        if self.run_eagerly:
            return self._eager_loop(on_replica)
        if self.xla == "on":
            on_replica = internals.function(on_replica, jit_compile=True)

        def one_step(done, waited, iterator):
            begin, number = tf.timestamp(), self.waiting.ask()
            with tf.control_dependencies([begin, number]):
                batch = next(iterator)
            tensors = tf.nest.flatten(batch, expand_composites=True)
            fits = self._source_fits and step == self.train_step
            known = [] if fits else batch_checks.known_images(self, batch)
            with tf.control_dependencies([*tensors, *known]):
                waited += tf.timestamp() - begin
                arrived = self.waiting.arrive(number)
            with compiling():  # Replicas have threads of their own.
                strategy.run(on_replica, args=(self._with_images(batch), arrived))
            return done + 1, waited

        @internals.function
        def run_steps(iterator):
            state = (tf.constant(0), tf.constant(0.0, tf.float64))
            if self.steps_per_execution == 1:
                _, waited = one_step(*state, iterator)
            else:
                _, waited = tf.while_loop(
                    lambda done, _: done < self.steps_per_execution,
                    lambda done, waited: one_step(done, waited, iterator),
                    state,
                    parallel_iterations=1,
                )
            return self.get_metrics_result(), waited

        read = internals.function(self.get_metrics_result)

        def function(iterator):
            several = self.steps_per_execution > 1
            begun = self.waiting.arrived if several else None
            try:
                with self.waiting.interruptible(iterator):
                    metrics, waited = run_steps(iterator)
            except tf.errors.OutOfRangeError:
                # The data ended among several steps: those before count, as in Keras.
                if not several or self.waiting.arrived == begun:
                    raise
                return read()
            self.input_wait = self.input_wait + waited
            return metrics

        return function

    def _with_images(self, batch):
        """A batch, and what every device holds of the source."""
        if self._images is None:
            return batch
        return {**batch, device.IMAGES: self._images}

    def _finishing(self):
        """What makes a step's batch of one that comes."""
        if self.finish is None:
            return lambda batch: batch
        if self.run_eagerly:
            return self.finish
        return pieces.compiled_on_gpus(self.finish, self.distribute_strategy)

    def _eager_loop(self, on_replica):
        def function(iterator):
            for done in range(self.steps_per_execution):
                try:
                    with self.waiting.interruptible(iterator):
                        batch = next(iterator)
                        batch_checks.known_images(self, batch)
                        on_replica(self._with_images(batch))
                except StopIteration:
                    if not done:
                        raise
                    break
            return self.get_metrics_result()

        return function
