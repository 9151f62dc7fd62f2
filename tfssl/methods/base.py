"""`Method`: what every self-supervised method shares, and would get wrong alone.

A method subclasses `Method`, builds its parts in `__init__` and says in one
`train_step` what its paper's algorithm box says. The base owns the rest:

* every variable exists before the first step (also the optimizer's slots);
* the gradient is that of the mean over the GLOBAL batch, at any replica count,
  with the loss scaled where the optimizer asks for it (`mixed_float16`);
* metrics are means over images, equal at any replica count;
* `fit` works under every strategy and with any `steps_per_execution`, see `loop`;
* `call(images)` is the encoder, so evaluation and export see the product;
* the settings of a method are attributes, and its config, and stay as they were given.
"""

import contextlib
import math

import keras
import tensorflow as tf

from tfssl import internals, replicas
from tfssl.data.views import device
from tfssl.methods import encoder_checks, loop, loss_scale, reached, tapes
from tfssl.models import norms


class Method(loop.StepLoop):
    """Base class of the self-supervised methods.

    A batch is a dict `{"views": {"view_0": (batch, h, w, c) float, "view_1": …},
    "index": (batch,) int64, "position": (batch,) int64}`, as made by
    `tfssl.data.multiview`. `index` is the image's stable number in its source;
    `position` its place in the training stream, from which an interrupted run resumes.

    A subclass sets `logged`, `num_views`, `more_views` and `default_recipe`, and
    writes two functions:

    * `image_losses(batch, training)`: a batch -> a dict of float32 tensors with the
      keys of `logged`. `"loss"` is `(batch,)`, and training minimizes its mean. The
      others are reported, the mean of all values: `(batch,)` for what an image has, a
      scalar for what the global batch has as a whole, equal on all replicas.
      Further entries, of any kind, are the method's own: what it stores after the
      update (MoCo's keys);
    * `train_step(batch)`: the paper's algorithm box, usually `image_losses` under
      `recording()`, then `minimize`, then what the paper does after the update.

    Its constructor hands its settings to this one, which checks them
    (`check_settings`), makes attributes of them and returns them from `get_config`.
    They are not to be set anew: networks, banks and losses were made of them, and
    `get_config` returns what was given. For others, make the method anew.

    Args:
        encoder: a built Keras model, images -> pooled features `(batch, dim)`.
            Any model is accepted: ours, `keras.applications` with
            `pooling="avg"`, keras-hub backbones with a pooling layer, your own.
        name: optional name of the model.
        **settings: the other arguments of the method's constructor, by their names
            there: plain values, or a layer that Keras can save (a frozen teacher).

    Attributes:
        encoder: the product of pre-training.
        settings: dict, as given.
        step: int64 variable, number of batches consumed. Schedules of a method
            read it: it counts also the steps whose gradients overflowed under
            `mixed_float16`, which `optimizer.iterations` leaves out.
        position: int64 variable, the stream position of the next image; of several
            replicas, whose places unreadable images part, the furthest.
        reached: `reached.Reached`, the place of each replica.
        gradient_watch: `gradient_watch.GradientWatch` that is told the gradients of
            every step, or None; to be set before the first.

    Raises:
        ValueError: if the encoder is not built, or its output is not
            `(batch, dim)` with a known `dim`; for settings that cannot work.
    """

    logged = ("loss",)
    num_views = 2
    more_views = False  # Whether a recipe may have further ones (multi-crop).
    starts_in_part = True  # Whether weights of another method may start this one.
    pictured = None  # What `pictures(images)` shows, where it is there, a heading.
    taught_by = "the folder of a run or of an exported model, or a .keras file"
    with_labels = False  # Whether a batch has `"label"`, what the image truly is.
    kept_as = "encoder.keras"  # The file of the product, in the folder of a run.

    def __init__(self, encoder, *, name=None, **settings):
        super().__init__(name=name)
        encoder_checks.check(encoder)
        self.check_settings(settings)
        self.settings = settings
        for key, value in settings.items():
            setattr(self, key, value)
        self.encoder = encoder
        self.feature_dim = int(encoder.output_shape[-1])
        self.step = self._counter("step")
        self.position = self._counter("position")
        self.reached = reached.Reached(self.position)
        self.gradient_watch = None
        self._means = {key: keras.metrics.Mean(name=key) for key in self.logged}
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

    @property
    def head(self):
        """What of the trained network follows the encoder, a Keras model, or None.

        Features `(batch, dim)` -> what the loss compares: the projector. Not what comes
        behind it (predictors, prototypes, classifiers), nor a target network's. It is
        kept beside the encoder, so that one may fine-tune from its middle.
        """
        return None

    def product(self):
        """`(encoder, head)` as they leave the training, asked for once, at its end."""
        return self.encoder, self.head

    def embed(self, images):
        """What the loss compares, for the collapse monitor: `(batch, dim)`."""
        features = self.encoder(images, training=False)
        return features if self.head is None else self.head(features, training=False)

    def collapse(self, logs):
        """What has collapsed by the numbers of an epoch, a sentence, or None.

        Beside the spread of `embed`, which the collapse monitor looks at.

        Args:
            logs: dict of floats, the means of the epoch: those of `logged`.
        """
        return None

    def chance_loss(self, global_batch):
        """Loss of a model that cannot tell images apart, or None if unknown."""
        return None

    def num_negatives(self, global_batch):
        """How many negatives each anchor sees, or None if the method has none."""
        return None

    @property
    def chooses(self):
        """Whether the loss is an InfoNCE: the choice of one positive among negatives.

        Or a sum of several, or a multiple, as `chance_loss` is then.
        """
        return False

    def mutual_information(self, loss, global_batch):
        """What a loss says at least of the information that a pair shares, in nats.

        `log(k) - InfoNCE` for a choice among `k` candidates: a lower bound of the
        mutual information of what is compared, and never above `log(k)`.

        Args:
            loss: float, a mean of `"loss"`.
            global_batch: int, images of a step.

        Returns:
            float, or None for a loss that is no InfoNCE.

        Reference:
            van den Oord et al., 2018, https://arxiv.org/abs/1807.03748, Eq. 5; with
            `k` counting the positive, Tian et al., 2020, https://arxiv.org/abs/1906.05849.
        """
        if not self.chooses:
            return None
        most = math.log(self.num_negatives(global_batch) + 1)
        return most * (1 - loss / self.chance_loss(global_batch))

    @classmethod
    def check_settings(cls, given):
        """Raises `ValueError` for settings, a dict, that cannot work with any data."""

    @classmethod
    def check_memory(cls, given):
        """Raises `ValueError` for settings that take more memory than is allowed.

        Called before anything is built, with all settings: a dict.
        """

    def check_run(self, global_batch, source):
        """Raises `ValueError` if this method cannot learn from these images.

        Args:
            global_batch: int, images of a step.
            source: `data.sources.Source`, the training images.
        """

    def notes(self, global_batch, num_images):
        """Lines about these settings for the start of a run."""
        return []

    @classmethod
    def recipe_for(cls, **hparams):
        """The views of the paper for these arguments of the method."""
        return cls.default_recipe

    @classmethod
    def check_recipe(cls, recipe):
        """Raises `ValueError` unless the method can take these views."""
        cls.check_views(len(recipe))

    @classmethod
    def check_views(cls, count):
        """Raises `ValueError` unless the method can take this many views."""
        if count == cls.num_views or (cls.more_views and count > cls.num_views):
            return
        raise ValueError(
            f"{count} view(s) received, but {cls.__name__} takes {cls.num_views}"
            f"{' or more' if cls.more_views else ''}; choose a recipe with as many."
        )

    @classmethod
    def tiled_views(cls, **hparams):
        """The numbers of the views that come in tiles, for these arguments.

        See `data.views.Tiles`; where there are any, the constructor may have an
        argument `num_tiles`, which `tfssl.pretrain` fills in from the recipe.
        """
        return ()

    @property
    def followers(self):
        """The networks that no gradient trains, a list of layers.

        They say so themselves: `follower = True`, as `ema.TargetNetwork` does. One that
        copies other networks also has `reset()`, which copies them anew.
        """
        layers = internals.layers_of(self)
        return [layer for layer in layers if getattr(layer, "follower", False)]

    @property
    def constants(self):
        """Variables that never change: of followers with `constant = True`.

        No checkpoint holds them, see `frozen.Frozen`.
        """
        still = [f for f in self.followers if getattr(f, "constant", False)]
        return [variable for follower in still for variable in follower.variables]

    @property
    def learned_variables(self):
        """Variables that the gradient trains: all trainable but the followers'."""
        theirs = {id(v) for follower in self.followers for v in follower.variables}
        return [v for v in self.trainable_variables if id(v) not in theirs]

    # What happens between epochs. --------------------------------------------

    def before_epoch(self, epoch, images):
        """Called before the first step of an epoch, on all workers; by default nothing.

        It may change variables of the method only, and only by what these and the
        images hold: a run that is resumed there calls it again, with the same result.

        Args:
            epoch: int, the epoch that begins, from 0.
            images: `tasks.epoch_images.EpochImages`, the training images: their
                features, an epoch of views, the workers.
        """

    def is_behind(self, epoch):
        """Whether the epoch lacks what `before_epoch` does, as after other settings."""
        return False

    def sampling(self, epoch, count):
        """The images of an epoch, int64 `(count,)`, or None: all of them, shuffled.

        Args:
            epoch: int.
            count: int, images of an epoch.
        """
        return None

    @property
    def acts_between_epochs(self):
        """Whether this method has `before_epoch` or `sampling`, so that epochs part."""
        own, general = type(self), Method
        return (
            own.before_epoch is not general.before_epoch
            or own.sampling is not general.sampling
        )

    def epoch_numbers(self):
        """Numbers that stay for an epoch, for its line in the log: a dict of floats."""
        return {}

    # What a train_step is made of. ------------------------------------------

    def views(self, batch):
        """The views of a batch as a list, in the recipe's order."""
        if device.NUMBERS in batch:
            raise ValueError(
                "The batch was made with augment_on='device', and its views are not "
                "finished; pass finish=tfssl.data.views.finishing(recipe) to compile, "
                "or make it with augment_on='host'."
            )
        views = batch["views"]
        self.check_views(len(views))
        return [views[f"view_{i}"] for i in range(len(views))]

    @contextlib.contextmanager
    def recording(self):
        """Context: a `tapes.Recording` of what the networks compute in it."""
        with tf.GradientTape() as tape:
            recorded = tapes.Recording(tape)
            yield recorded
            recorded.penalties = [tf.cast(term, tf.float32) for term in self.losses]

    def minimize(self, recorded, values, batch):
        """One optimizer step on the mean of `values["loss"]` over all images.

        The mean over the local images is divided by the number of replicas,
        since the optimizer sums the replicas' gradients: together that is the
        gradient of the mean over the global batch. Penalty terms (kernel
        regularizers) are divided alike, so that they count once.

        Args:
            recorded: what `recording()` gave, under which `values` were computed.
            values: dict, as `image_losses` returns it.
            batch: the batch of this step; its position advances the stream.
        """
        losses = values["loss"]
        count = replicas.num_replicas()
        share = 1.0 / (tf.cast(tf.size(losses), tf.float32) * count)
        seeds = [tf.fill(tf.shape(losses), self.optimizer.scale_loss(share))]
        for term in recorded.penalties:
            seeds.append(
                tf.fill(tf.shape(term), self.optimizer.scale_loss(1.0 / count))
            )
        learned = self.learned_variables
        gradients = recorded.tape.gradient(
            [losses, *recorded.penalties],
            [v.value for v in learned],
            output_gradients=seeds,
        )
        gradients = loss_scale.agreed(self.optimizer, gradients)
        if self.gradient_watch is not None:
            scale = self.optimizer.scale_loss(1.0)
            self.gradient_watch.see(gradients, self.step, scale)
        self.apply_gradients(gradients, learned)
        self._advance(batch)
        self._report(values)

    def apply_gradients(self, gradients, variables):
        """The optimizer's step on the variables that learn."""
        self.optimizer.apply(gradients, variables)

    def _advance(self, batch):
        self.step.assign_add(1)
        self.reached.advance(batch["position"])

    def _report(self, values):
        for key in self.logged:
            self._means[key].update_state(values[key])

    # The Keras side. --------------------------------------------------------

    def call(self, images, training=False):
        """Images `(batch, h, w, c)` -> the encoder's features `(batch, dim)`."""
        return self.encoder(images, training=training)

    def test_step(self, batch):
        """The loss of held-out images, with the encoder in inference mode.

        Not of a method with `num_images`, which compares an image with what it stored
        under its number (a bank, clusters): there it is the loss of the images that
        train, and of others, whose numbers begin at 0 again, it says nothing.
        """
        self._report(self.image_losses(batch, training=False))

    @property
    def metrics(self):
        return list(self._means.values())

    def get_config(self):
        return {
            "name": self.name,
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            **self.settings,
        }

    @classmethod
    def from_config(cls, config):
        config = norms.renamed(config)
        for key, value in config.items():
            if isinstance(value, dict) and "class_name" in value:
                config[key] = keras.saving.deserialize_keras_object(value)
        return cls(**config)
