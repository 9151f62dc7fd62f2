"""The discrete variational autoencoder: an alphabet of visual tokens, learned.

Ramesh et al., 2021, https://arxiv.org/abs/2102.12092 (DALL-E), its first stage, whose
tokens BEiT predicts. The training code was never released; what the paper's appendix
A.2 says of it is what stands here.
"""

import math

import keras
import tensorflow as tf

from tfssl import checks, replicas, stateless
from tfssl.data.views import tokenizer_recipes
from tfssl.losses import variational
from tfssl.methods import averaged
from tfssl.models import pixel_maps, tokenizer
from tfssl.optimizers import schedules

# Steps that `usage` looks back on, about.
_REMEMBERED = 100
# A code is dead that has less than this share of what it would have by chance.
_DEAD = 0.01


@keras.saving.register_keras_serializable(package="tfssl")
class DVAE(averaged.Averaged):
    """Trains a tokenizer: image -> grid of codes -> image.

    The method of `tfssl.train_tokenizer`. Every cell of the grid is a sample of the
    Gumbel-softmax of its logits, weights of all codes that are nearer to one of them
    the lower the temperature is; the decoder makes the image of them. The loss of an
    image is `-losses.dvae_elbo / (height * width * channels)`, its weight of the KL
    divergence rising from 0 along half a cosine, while the temperature falls from 1.

    Args:
        encoder: a `models.Tokenizer`.
        temperature: float > 0, at the end.
        temperature_steps: int, steps in which it falls there from 1.
        kl_weight: float >= 0, DALL-E's beta, at the end: of the KL divergence in nats
            to the log likelihood of all pixels in nats.
        kl_steps: int, steps in which it rises there from 0.
        averaging: float in [0, 1), momentum of a moving average of the weights, which
            takes their place in the product; 0 is none. At step `t` it is at most
            `(1 + t) / (10 + t)`.
        seed: int, of the samples.
        name: optional name of the model.

    Attributes:
        average: `ema.TargetNetwork` of the tokenizer, or None.

    Views: one, float32 in [0, 1]. The default recipe is `tokenizer`.

    Metrics: `reconstruction`, minus the log likelihood of a pixel's channel (of
    `"mse"` the squared error); `kl`, in nats a cell; of the tokens of the global batch
    `perplexity`, e to the entropy of the codes' shares, and `codes_used`, the share of
    the vocabulary that occurs; `dead_codes`, the share of it that hardly occurred
    within the last 100 steps.

    Reference: Ramesh et al., 2021, appendix A.2. Difference: samples are hashes of
    (seed, place in the stream, cell, code), equal on any number of replicas. In
    evaluation a cell is its likeliest code, without chance.

    Raises:
        ValueError: for settings that cannot work, or an encoder that is no tokenizer.
    """

    default_recipe = tokenizer_recipes.TOKENIZER
    num_views = 1
    kept_as = "tokenizer.keras"
    logged = (
        "loss",
        "reconstruction",
        "kl",
        "perplexity",
        "codes_used",
        "dead_codes",
    )

    def __init__(
        self,
        encoder,
        *,
        temperature=1 / 16,
        temperature_steps=150_000,
        kl_weight=6.6,
        kl_steps=5_000,
        averaging=0.0,
        seed=0,
        name=None,
    ):
        if not isinstance(encoder, tokenizer.Tokenizer):
            raise checks.refused("encoder", encoder, "a tfssl.models.Tokenizer")
        super().__init__(
            encoder,
            name=name,
            temperature=temperature,
            temperature_steps=temperature_steps,
            kl_weight=kl_weight,
            kl_steps=kl_steps,
            averaging=averaging,
            seed=seed,
        )
        self.average_of(encoder)

    @classmethod
    def check_settings(cls, given):
        checks.positive(given, "temperature")
        checks.not_negative(given, "kl_weight")
        checks.whole(given, "temperature_steps", "kl_steps")
        checks.fraction_below_one(given, "averaging")
        checks.seed(given, "seed")

    def product(self):
        """The averaged tokenizer, if there is one."""
        (network,) = self.networks(training=False)
        return network, None

    def embed(self, images):
        """The share of each code in an image's tokens: `(batch, vocabulary)`.

        All alike where one code stands for all, which is when a tokenizer collapsed.
        """
        tokens = self.encoder.tokens(images)
        return tf.reduce_mean(tf.one_hot(tokens, self.encoder.vocabulary), axis=[1, 2])

    def train_step(self, batch):
        self._remember(super().train_step(batch)["shares"])

    def image_losses(self, batch, training):
        (images,) = self.views(batch)
        images = tf.cast(images, tf.float32)
        (network,) = self.networks(training)
        logits = tf.cast(network.logits(images, training=training), tf.float32)
        tokens = tf.argmax(logits, axis=-1)
        if training:
            weights = self.sampled(logits, batch["position"])
        else:
            weights = tf.one_hot(tokens, network.vocabulary)
        outputs = network.decode(weights, training=training)
        likelihood = self._log_likelihood(outputs, images)
        weight = schedules.cosine(self.step, 0.0, self.kl_weight, self.kl_steps)
        elbo = variational.dvae_elbo(likelihood, logits, kl_weight=weight)
        count = tf.cast(tf.size(likelihood) // tf.shape(images)[0], tf.float32)
        shares = self._shares(tokens)
        return {
            "loss": -elbo / count,
            "reconstruction": -tf.reduce_mean(likelihood, axis=[1, 2, 3]),
            "kl": tf.reduce_mean(variational.kl_to_uniform(logits), axis=[1, 2]),
            "perplexity": tf.exp(-tf.reduce_sum(tf.math.xlogy(shares, shares))),
            "codes_used": tf.reduce_mean(tf.cast(shares > 0, tf.float32)),
            "dead_codes": self._dead_codes(),
            "shares": shares,
        }

    def sampled(self, logits, position):
        """Weights of the codes: a sample of the Gumbel-softmax of this step.

        Args:
            logits: float32 `(batch, rows, columns, codes)`.
            position: int64 `(batch,)`, places of the images in the stream.

        Returns:
            float32 of the logits' shape, whose sum over the codes is 1.
        """
        count = math.prod(logits.shape[1:])
        chance = stateless.uniform(self.seed, position, count, purpose="gumbel")
        gumbel = -tf.math.log(-tf.math.log(chance))
        temperature = schedules.cosine(
            self.step, 1.0, self.temperature, self.temperature_steps
        )
        return tf.nn.softmax(
            (logits + tf.reshape(gumbel, tf.shape(logits))) / temperature
        )

    def _log_likelihood(self, outputs, images):
        if self.encoder.likelihood == "mse":
            return variational.squared_error(outputs, images)
        return variational.logit_laplace(outputs, pixel_maps.mapped(images))

    # Which codes are in use. -------------------------------------------------

    def _shares(self, tokens):
        """The share of each code in the tokens of the global batch: `(codes,)`."""
        flat = tf.reshape(tokens, [-1])
        counts = tf.math.unsorted_segment_sum(
            tf.ones_like(flat, tf.float32), flat, self.encoder.vocabulary
        )
        counts = replicas.sum_over_replicas(counts)
        return counts / tf.reduce_sum(counts)

    def _remember(self, shares):
        """Moves the tokenizer's `usage` towards the shares of this step."""
        usage, step = self.encoder.usage, tf.cast(self.step, tf.float32)
        share = tf.maximum(1 / step, 1 / _REMEMBERED)  # At first the mean of all.
        usage.assign(usage + share * (shares - usage))

    def _dead_codes(self):
        usage = tf.convert_to_tensor(self.encoder.usage)
        chance = 1 / self.encoder.vocabulary
        return tf.reduce_mean(tf.cast(usage < _DEAD * chance, tf.float32))

    # What it says of itself. -------------------------------------------------

    def check_run(self, global_batch, source):
        if source.channels != self.encoder.channels:
            raise ValueError(
                f"The images have {source.channels} channel(s), but the tokenizer "
                f"takes {self.encoder.channels}; open them with "
                f"channels={self.encoder.channels}."
            )

    def notes(self, global_batch, num_images):
        return [
            f"{self.encoder.vocabulary:,} codes, one for {self.encoder.downsampling} x "
            f"{self.encoder.downsampling} pixels; temperature 1 to "
            f"{self.temperature:g} in {self.temperature_steps:,} steps, weight of KL "
            f"0 to {self.kl_weight:g} in {self.kl_steps:,}"
        ]
