"""`Method`: what every self-supervised method shares, and would get wrong alone.

A method subclasses `Method`, builds its parts in `__init__` and says in one
`train_step` what its paper's algorithm box says. The base owns the rest:

* every variable exists before the first step (also the optimizer's slots);
* the gradient is that of the mean over the GLOBAL batch, at any replica count,
  with the loss scaled where the optimizer asks for it (`mixed_float16`);
* metrics are means over images, equal at any replica count;
* `fit` works under every strategy and with any `steps_per_execution`, which
  the stock train function of Keras 3 does not;
* `call(images)` is the encoder, so evaluation and export see the product.
"""

import contextlib

import keras
import tensorflow as tf
from absl import logging

from tfssl import ema, input_wait, internals, replicas
from tfssl.models import input_range


class _Tape(tf.GradientTape):
    """A gradient tape, with the penalty terms of what it recorded, once it ended."""

    penalties: list


class Method(internals.BuiltBeforehand, keras.Model):
    """Base class of the self-supervised methods.

    A batch is a dict `{"views": {"view_0": (batch, h, w, c) float, "view_1": …},
    "index": (batch,) int64, "position": (batch,) int64}`, as made by
    `tfssl.data.multiview`. `index` is the image's stable number in its source;
    `position` (optional) its place in the training stream, from which an
    interrupted run resumes.

    A subclass sets `logged`, `num_views`, `more_views` and `default_recipe`, and
    writes two functions:

    * `image_losses(batch, training)`: a batch -> a dict of float32 tensors
      `(batch,)` with the keys of `logged`; training minimizes the mean of `"loss"`,
      the others are reported. Further entries are the method's own (the keys that
      MoCo stores after the update);
    * `train_step(batch)`: the paper's algorithm box, usually `image_losses` under
      `recording()`, then `minimize`, then what the paper does after the update.

    Args:
        encoder: a built Keras model, images -> pooled features `(batch, dim)`.
            Any model is accepted: ours, `keras.applications` with
            `pooling="avg"`, keras-hub backbones with a pooling layer, your own.
        name: optional name of the model.

    Attributes:
        encoder: the product of pre-training.
        step: int64 variable, number of batches consumed. Schedules of a method
            read it: it counts also the steps whose gradients overflowed under
            `mixed_float16`, which `optimizer.iterations` leaves out.
        position: int64 variable, the stream position of the next image.
        input_wait: float64 scalar tensor, seconds that the steps of this process
            have waited for their batch.
        waiting: `input_wait.InputWait`, whether a step waits for its batch just now.

    Raises:
        ValueError: if the encoder is not built, or its output is not
            `(batch, dim)` with a known `dim`.
    """

    logged = ("loss",)
    num_views = 2
    more_views = False  # Whether a recipe may have further ones (multi-crop).
    # What is clustered between epochs: None, "features" (of clean images) or "bank"
    # (embeddings that the method keeps), see `tasks.clustering`.
    clusters = None

    def __init__(self, encoder, *, name=None):
        super().__init__(name=name)
        _check_encoder(encoder)
        self.encoder = encoder
        self.feature_dim = int(encoder.output_shape[-1])
        self.step = self._counter("step")
        self.position = self._counter("position")
        self._means = {key: keras.metrics.Mean(name=key) for key in self.logged}
        # A tensor, not a weight: it describes this process, not the training.
        self.input_wait = tf.constant(0.0, tf.float64)
        self.waiting = input_wait.InputWait()
        self.built = True

    def _counter(self, name):
        return self.add_weight(
            name=name,
            shape=(),
            dtype="int64",
            initializer="zeros",
            trainable=False,
            aggregation="none",
        )

    # What a method says of itself. -----------------------------------------

    def embed(self, images):
        """What the loss compares, for the collapse monitor: `(batch, dim)`."""
        return self.encoder(images, training=False)

    def chance_loss(self, global_batch):
        """Loss of a model that cannot tell images apart, or None if unknown."""
        return None

    def num_negatives(self, global_batch):
        """How many negatives each anchor sees, or None if the method has none."""
        return None

    def notes(self, global_batch, num_images):
        """Lines about these settings for the start of a run.

        Raises:
            ValueError: for data that the method cannot learn from.
        """
        return []

    @classmethod
    def recipe_for(cls, **hparams):
        """The views of the paper for these arguments of the method."""
        return cls.default_recipe

    @classmethod
    def check_views(cls, count):
        """Raises `ValueError` unless the method can take this many views."""
        if count == cls.num_views or (cls.more_views and count > cls.num_views):
            return
        raise ValueError(
            f"{count} view(s) received, but {cls.__name__} takes {cls.num_views}"
            f"{' or more' if cls.more_views else ''}; choose a recipe with as many."
        )

    @property
    def target_networks(self):
        """The moving averages of networks that this method holds, a list."""
        layers = internals.layers_of(self)
        return [layer for layer in layers if isinstance(layer, ema.TargetNetwork)]

    @property
    def learned_variables(self):
        """Variables that the gradient trains: all trainable but target networks'."""
        followers = {id(v) for target in self.target_networks for v in target.variables}
        return [v for v in self.trainable_variables if id(v) not in followers]

    # What a train_step is made of. ------------------------------------------

    def views(self, batch):
        """The views of a batch as a list, in the recipe's order."""
        views = batch["views"]
        self.check_views(len(views))
        return [views[f"view_{i}"] for i in range(len(views))]

    @contextlib.contextmanager
    def recording(self):
        """A gradient tape that also sees the encoder's own penalty terms."""
        with _Tape() as tape:
            yield tape
            tape.penalties = [tf.cast(term, tf.float32) for term in self.losses]

    def minimize(self, tape, values, batch):
        """One optimizer step on the mean of `values["loss"]` over all images.

        The mean over the local images is divided by the number of replicas,
        since the optimizer sums the replicas' gradients: together that is the
        gradient of the mean over the global batch. Penalty terms (kernel
        regularizers) are divided alike, so that they count once.

        Args:
            tape: the tape of `recording()` under which `values` were computed.
            values: dict of `(batch,)` tensors, keys as `logged`.
            batch: the batch of this step; its position advances the stream.
        """
        losses = values["loss"]
        count = replicas.num_replicas()
        share = 1.0 / (tf.cast(tf.size(losses), tf.float32) * count)
        seeds = [tf.fill(tf.shape(losses), self.optimizer.scale_loss(share))]
        for term in tape.penalties:
            seeds.append(
                tf.fill(tf.shape(term), self.optimizer.scale_loss(1.0 / count))
            )
        learned = self.learned_variables
        gradients = tape.gradient(
            [losses, *tape.penalties],
            [v.value for v in learned],
            output_gradients=seeds,
        )
        self.optimizer.apply(gradients, learned)
        self._advance(batch)
        self._report(values)

    def _advance(self, batch):
        self.step.assign_add(1)
        if "position" in batch:
            last = replicas.max_over_replicas(tf.reduce_max(batch["position"]))
            self.position.assign(last + 1)

    def _report(self, values):
        for key in self.logged:
            self._means[key].update_state(values[key])

    # The Keras side. --------------------------------------------------------

    def call(self, images, training=False):
        """Images `(batch, h, w, c)` -> the encoder's features `(batch, dim)`."""
        return self.encoder(images, training=training)

    def test_step(self, batch):
        """The loss of held-out images, with the encoder in inference mode."""
        self._report(self.image_losses(batch, training=False))

    @property
    def metrics(self):
        return list(self._means.values())

    def compile(self, optimizer, *, jit_compile="auto", run_eagerly=False, **kwargs):
        """Sets the optimizer and how steps are run.

        Args:
            optimizer: a Keras optimizer, or its name.
            jit_compile: bool, compile each step with XLA. One replica only (a
                TPU compiles by itself). `"auto"` does so on one GPU, where it is
                several times as fast, unless a layer says that it cannot; on a CPU
                it would slow training down. The attribute `jit_compile` then says
                what was chosen.
            run_eagerly: bool, for debugging on one replica.
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
        if count > 1 and (jit_compile or run_eagerly):
            flag = "jit_compile" if jit_compile else "run_eagerly"
            raise ValueError(
                f"{flag}=True received with {count} replicas, where it fails or "
                f"hangs; set {flag}=False or train on one replica."
            )
        super().compile(
            optimizer=optimizer,
            jit_compile=jit_compile,
            run_eagerly=run_eagerly,
            **kwargs,
        )
        if getattr(self.optimizer, "gradient_accumulation_steps", None):
            raise ValueError(
                "The optimizer has gradient_accumulation_steps="
                f"{self.optimizer.gradient_accumulation_steps}, which adds no "
                "negatives and fails under several replicas; set it to None."
            )

    def _gains_from_xla(self):
        if replicas.single_gpu(self.distribute_strategy) is None:
            return False
        return all(layer.supports_jit for layer in internals.layers_of(self))

    def build_optimizer(self):
        """Creates the optimizer's slots, so that nothing is made in a step."""
        if self.optimizer is not None and not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.learned_variables)

    def make_train_function(self, force=False):
        if self.train_function is None or force:
            self.build_optimizer()
            self.train_function = self._loop_over(self.train_step)

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

    def _loop_over(self, step):
        """`iterator -> metrics`, running `steps_per_execution` steps on all replicas.

        One `tf.function` for any strategy, which reads the metrics once, at the
        end and in cross-replica context.
        """
        strategy = self.distribute_strategy

        def on_replica(batch, *arrived):
            # Without the dependency TensorFlow may run what does not read the
            # batch (a counter) before the iterator reports its end.
            with tf.control_dependencies([*tf.nest.flatten(batch), *arrived]):
                step(batch)

        if self.run_eagerly:
            return self._eager_loop(on_replica)
        if self.jit_compile:
            on_replica = tf.function(on_replica, jit_compile=True, autograph=False)

        def one_step(done, waited, iterator):
            begin, number = tf.timestamp(), self.waiting.ask()
            with tf.control_dependencies([begin, number]):
                batch = next(iterator)
            tensors = tf.nest.flatten(batch, expand_composites=True)
            with tf.control_dependencies(tensors):
                waited += tf.timestamp() - begin
                arrived = self.waiting.arrive(number)
            strategy.run(on_replica, args=(batch, arrived))
            return done + 1, waited

        @tf.function(autograph=False)
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

        def function(iterator):
            with self.waiting.interruptible(iterator):
                metrics, waited = run_steps(iterator)
            self.input_wait = self.input_wait + waited
            return metrics

        return function

    def _eager_loop(self, on_replica):
        def function(iterator):
            for _, batch in zip(range(self.steps_per_execution), iterator):
                on_replica(batch)
            return self.get_metrics_result()

        return function

    def get_config(self):
        return {
            "name": self.name,
            "encoder": keras.saving.serialize_keras_object(self.encoder),
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        config["encoder"] = keras.saving.deserialize_keras_object(config["encoder"])
        return cls(**config)


def _check_encoder(encoder):
    if not isinstance(encoder, keras.Model) or not encoder.built:
        raise ValueError(
            f"encoder={encoder!r} is not a built Keras model; pass one made with "
            "an input shape, for example tfssl.models.encoder('resnet18')."
        )
    shape = encoder.output_shape
    if not isinstance(shape, tuple) or len(shape) != 2 or shape[-1] is None:
        raise ValueError(
            f"The encoder's output shape is {shape}, expected (batch, dim): end it "
            "with global pooling (keras.applications: pooling='avg')."
        )
    white = input_range.white(encoder)
    if white != 1:
        logging.warning(
            "The encoder %s takes pixels from 0 to %d (it rescales them itself, or "
            "takes whole numbers), but views are in [0, 1] or normalised: use "
            "tfssl.models.input_range.with_pixels, unless your data differ.",
            encoder.name,
            white,
        )
