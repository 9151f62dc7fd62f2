"""The discrete variational autoencoder of DALL-E: images to visual tokens and back."""

import hashlib
import math

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from tfssl import checks
from tfssl.models import freezing, image_format, pixel_maps, remat

# Fewer codes than these, by perplexity, are one code for all.
_COLLAPSED = 1.5


class _Chain(remat.Blockwise):
    """The encoder or the decoder of a tokenizer."""


@keras.saving.register_keras_serializable(package="tfssl")
class Tokenizer(keras.Model):
    """Images to grids of whole numbers, each one of a vocabulary, and back.

    The encoder gives logits for every cell of a grid, whose largest is the token. The
    decoder makes an image of tokens, or of weights of all codes. Both are DALL-E's:
    groups of bottleneck residual blocks without any norm, between them 2x2 max-pools
    (nearest-neighbour upsampling in the decoder), with as many groups as
    `downsampling` needs.

    As a Keras model it is images `(batch, height, width, channels)` -> features
    `(batch, vocabulary)`, the mean over the grid of the softmax of the logits: how much
    of each code is in an image. So evaluations and files take it as any encoder.

    Args:
        vocabulary: int >= 2, the number of codes.
        downsampling: int, pixels along a side of what a token stands for: a power of 2
            from 2 on. 8 makes 14x14 tokens of 112 pixels, 4 makes 8x8 of 32.
        width: int, a multiple of 4: the filters at the images' size; they double with
            every halving of the grid.
        blocks: int, residual blocks of a group.
        decoder_width: int, filters of the decoder's first layer.
        channels: int, of the images.
        likelihood: what the decoder says of a pixel: `"logit_laplace"`, mean and
            scale of a density of values between 0 and 1, or `"mse"`, the value.
        dtype: Keras dtype policy of the layers; None is the global one. The logits
            and the decoder's first layer are float32 under mixed precision too.
        name: name of the model.
        trainable: as in Keras.

    Attributes:
        encoder: functional Keras model, images -> logits
            `(batch, rows, columns, vocabulary)`.
        decoder: functional Keras model, weights of the codes, of the logits' shape ->
            what `likelihood` compares, see `decode`.
        usage: float32 variable `(vocabulary,)`, the share of each code in the tokens
            of the last training steps; all 0 where nobody knows.
        input_range: `(0.0, 1.0)`, the values of the images.
        stage_outputs: a dict of one Keras tensor, `"logits"`.

    Raises:
        ValueError: for arguments that cannot work.

    Reference:
        Ramesh et al., 2021, https://arxiv.org/abs/2102.12092, and openai/DALL-E,
        `dall_e/encoder.py` and `decoder.py`: convolutions start at
        N(0, 1 / sqrt(fan_in)), biases at 0, and a residual branch is multiplied by
        1 / (number of blocks)^2.
    """

    input_range = (0.0, 1.0)

    def __init__(
        self,
        *,
        vocabulary=8192,
        downsampling=8,
        width=256,
        blocks=2,
        decoder_width=128,
        channels=3,
        likelihood="logit_laplace",
        dtype=None,
        name="tokenizer",
        trainable=True,
    ):
        given = {
            "vocabulary": vocabulary,
            "downsampling": downsampling,
            "width": width,
            "blocks": blocks,
            "decoder_width": decoder_width,
            "channels": channels,
            "likelihood": likelihood,
        }
        _check(given)
        policy = keras.dtype_policies.get(dtype)
        made = _Parts(policy, blocks, int(math.log2(downsampling)) + 1)
        encoder = made.encoder(vocabulary, width, channels)
        outputs = channels * pixel_maps.OUTPUTS[likelihood]
        decoder = made.decoder(vocabulary, width, decoder_width, outputs)
        images = keras.Input((None, None, channels), name="images")
        logits = encoder(images)
        said = layers.Softmax(dtype=made.wide, name="said")(logits)
        mean = layers.GlobalAveragePooling2D(dtype=made.wide, name="features")
        super().__init__(images, mean(said), name=name)
        self.settings = given
        for key, value in given.items():
            setattr(self, key, value)
        self.encoder = encoder
        self.decoder = decoder
        self.stage_outputs = {"logits": logits}
        self.dtype_policy = policy
        self.usage = self.add_weight(
            name="usage",
            shape=(vocabulary,),
            dtype="float32",
            initializer="zeros",
            trainable=False,
            aggregation="none",
        )
        freezing.begin(self, trainable)

    # Images to tokens. ------------------------------------------------------

    def logits(self, images, training=False):
        """How well each code fits each cell.

        Args:
            images: float `(batch, height, width, channels)` in [0, 1], whose sides
                `downsampling` divides.
            training: bool, whether it is a step of training (see `remat`).

        Returns:
            float32 `(batch, rows, columns, vocabulary)`.

        Raises:
            ValueError: for sides that `downsampling` does not divide, and for whole
                numbers.
        """
        dtype = keras.backend.standardize_dtype(images.dtype)
        if not keras.backend.is_float_dtype(dtype):
            raise ValueError(
                f"Images of {dtype} received, but the tokenizer {self.name!r} takes "
                "floats in [0, 1]; divide them by 255 (uint8)."
            )
        height, width = images.shape[1:3]
        if None not in (height, width):
            self.check_images(height, width)
        return self.encoder(images, training=training)

    def tokens(self, images):
        """Images, as for `logits` -> tokens, int32 `(batch, rows, columns)`."""
        # Keras's argmax looks for zeros with a sign first, of a GPU by way of the host.
        return tf.argmax(self.logits(images), axis=-1, output_type=tf.int32)

    def grid(self, size):
        """`(rows, columns)` of the tokens of images.

        Args:
            size: int, the side of square images, or `(height, width)`.

        Raises:
            ValueError: for sides that `downsampling` does not divide.
        """
        height, width = (size, size) if checks.is_number(size) else size
        self.check_images(height, width)
        return height // self.downsampling, width // self.downsampling

    def check_images(self, height, width):
        """Raises `ValueError` for a size that `downsampling` does not divide."""
        sides = (height, width)
        if all(side > 0 and side % self.downsampling == 0 for side in sides):
            return
        raise ValueError(
            f"Images of {height} x {width} pixels received, but a token of the "
            f"tokenizer {self.name!r} stands for {self.downsampling} x "
            f"{self.downsampling} (downsampling={self.downsampling}); take sides that "
            "are a multiple."
        )

    # Tokens to images. ------------------------------------------------------

    def decode(self, weights, training=False):
        """What the likelihood compares with the pixels.

        Args:
            weights: float `(batch, rows, columns, vocabulary)`, of each code; 1 and
                zeros for a token.
            training: as for `logits`.

        Returns:
            float32 `(batch, height, width, n)`: the channels' values (`"mse"`), or
            their means of `logit(x)` and then the logarithms of their scales
            (`"logit_laplace"`), see `losses.logit_laplace`.
        """
        return self.decoder(weights, training=training)

    def pictures(self, outputs):
        """What `decode` gives -> images in [0, 1] `(batch, height, width, channels)`.

        Of a likelihood with a scale it is the image of the means.
        """
        return pixel_maps.pictures(outputs, self.likelihood)

    def images(self, tokens):
        """Tokens -> images in [0, 1].

        Args:
            tokens: whole numbers `(batch, rows, columns)`, from 0 to `vocabulary - 1`.

        Returns:
            float32 `(batch, height, width, channels)`.

        Raises:
            ValueError: for tokens beyond the vocabulary, where they are known: not
                inside of a graph.
        """
        self._check_tokens(tokens)
        weights = ops.one_hot(tokens, self.vocabulary, dtype="float32")
        return self.pictures(self.decode(weights))

    def _check_tokens(self, tokens):
        if not (isinstance(tokens, np.ndarray) or hasattr(tokens, "numpy")):
            return  # Of a graph.
        known = ops.convert_to_numpy(tokens)
        if known.size and not 0 <= known.min() <= known.max() < self.vocabulary:
            raise ValueError(
                f"Tokens from {known.min()} to {known.max()} received, but the codes "
                f"of the tokenizer {self.name!r} are 0 to {self.vocabulary - 1}."
            )

    # What it is. ------------------------------------------------------------

    @property
    def perplexity(self):
        """How many codes are in use: e to the entropy of `usage`; None if unknown."""
        usage = ops.convert_to_numpy(self.usage)
        return perplexity(usage) if usage.any() else None

    def check_use(self):
        """Raises `ValueError` if this tokenizer has one code for all."""
        perplexity = self.perplexity
        if perplexity is None or perplexity >= _COLLAPSED:
            return
        raise ValueError(
            f"The tokenizer {self.name!r} has collapsed: of its {self.vocabulary} "
            f"codes {perplexity:.2f} are in use (perplexity), expected {_COLLAPSED} or "
            "more; train one with a smaller kl_weight or another learning rate."
        )

    @property
    def fingerprint(self):
        """What tells this tokenizer from another: 16 hexadecimal digits.

        Of what makes tokens and images: the settings and the trained weights; not of
        `usage`, names or files.
        """
        digest = hashlib.sha256(repr(sorted(self.settings.items())).encode())
        for part in (self.encoder, self.decoder):
            for weight in part.weights:
                value = ops.convert_to_numpy(weight)
                digest.update(f"{value.shape} {weight.dtype}".encode())
                digest.update(value.tobytes())
        return digest.hexdigest()[:16]

    def get_config(self):
        """Every constructor argument."""
        return {
            **self.settings,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "name": self.name,
            **freezing.config_of(self),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Builds the tokenizer that `get_config` describes."""
        return freezing.made(cls, config)


def perplexity(counts):
    """How many codes there were, were all of them alike: e to the entropy of shares.

    Args:
        counts: array of how often each code occurs, or of their shares, not all 0.
    """
    shares = np.asarray(counts, np.float64)
    shares = shares[shares > 0] / shares.sum()
    return float(np.exp(-np.sum(shares * np.log(shares))))


def _check(given):
    image_format.check()
    checks.whole(given, "vocabulary", "downsampling", least=2)
    checks.whole(given, "width", "blocks", "decoder_width", "channels")
    checks.one_of(given, "likelihood", tuple(pixel_maps.OUTPUTS))
    if given["downsampling"] & (given["downsampling"] - 1):
        raise checks.refused(
            "downsampling", given["downsampling"], "a power of 2: 2, 4, 8, 16 …"
        )
    if given["width"] % 4:
        raise checks.refused("width", given["width"], "a multiple of 4")


class _Parts:
    """The layers of encoder and decoder.

    Args:
        policy: dtype policy.
        blocks: int, of a group.
        groups: int, one more than the halvings.
    """

    def __init__(self, policy, blocks, groups):
        self.policy = policy
        self.wide = "float64" if policy.compute_dtype == "float64" else "float32"
        self.blocks = blocks
        self.groups = groups

    def encoder(self, vocabulary, width, channels):
        images = keras.Input((None, None, channels), name="images")
        mapped = pixel_maps.PixelMap(dtype=self.wide, name="pixel_map")(images)
        x = self._conv(mapped, width, 7, "input")
        ends = [x]
        for group in range(self.groups):
            if group:
                x = layers.MaxPooling2D(2, dtype=self.policy, name=f"pool_{group}")(x)
            for block in range(self.blocks):
                name = f"group_{group + 1}_block_{block + 1}"
                x = self._block(x, width * 2**group, (3, 3, 3, 1), name)
                ends.append(x)
        x = self._relu(x, "output_relu")
        x = self._conv(x, vocabulary, 1, "output_conv", self.wide)
        return self._chain(images, x, ends, "encoder")

    def decoder(self, vocabulary, width, first, outputs):
        weights = keras.Input((None, None, vocabulary), name="weights")
        x = self._conv(weights, first, 1, "input", self.wide)
        ends = [x]
        for group in range(self.groups):
            if group:
                name = f"upsample_{group}"
                x = layers.UpSampling2D(2, dtype=self.policy, name=name)(x)
            for block in range(self.blocks):
                name = f"group_{group + 1}_block_{block + 1}"
                filters = width * 2 ** (self.groups - 1 - group)
                x = self._block(x, filters, (1, 3, 3, 3), name)
                ends.append(x)
        x = self._relu(x, "output_relu")
        x = self._conv(x, outputs, 1, "output_conv", self.wide)
        return self._chain(weights, x, ends, "decoder")

    def _chain(self, inputs, outputs, ends, name):
        chain = _Chain(inputs, outputs, name=name)
        chain.block_ends = ends
        # Pixels, and weights of codes, come as they are; the layers cast by themselves.
        chain.dtype_policy = keras.dtype_policies.get(self.wide)
        return chain

    def _block(self, x, filters, kernels, name):
        """`x` plus a share of the bottleneck's convolutions."""
        straight, hidden = x, filters // 4
        if x.shape[-1] != filters:
            straight = self._conv(x, filters, 1, f"{name}_id_path")
        for number, kernel in enumerate(kernels, start=1):
            x = self._relu(x, f"{name}_relu_{number}")
            width = filters if number == len(kernels) else hidden
            x = self._conv(x, width, kernel, f"{name}_conv_{number}")
        share = 1 / (self.groups * self.blocks) ** 2
        x = layers.Rescaling(share, dtype=self.policy, name=f"{name}_share")(x)
        return layers.Add(dtype=self.policy, name=f"{name}_add")([straight, x])

    def _relu(self, x, name):
        return layers.ReLU(dtype=self.policy, name=name)(x)

    def _conv(self, x, filters, kernel, name, dtype=None):
        return layers.Conv2D(
            filters,
            kernel,
            padding="same",
            kernel_initializer=keras.initializers.VarianceScaling(
                1.0, "fan_in", "untruncated_normal"
            ),
            dtype=dtype or self.policy,
            name=name,
        )(x)
