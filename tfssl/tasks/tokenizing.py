"""What a training of a tokenizer is made of: its network, its settings, its watch."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import keras

from tfssl import models, optimizers
from tfssl.data.views import recipes
from tfssl.models import pixel_maps
from tfssl.optimizers import schedules
from tfssl.tasks import groups, monitoring
from tfssl.tasks.arguments import OneOf, Range
from tfssl.training import code_use


@dataclasses.dataclass(frozen=True)
class Optimization(groups.Optimization):
    """That of `groups.Optimization`, with DALL-E's AdamW."""

    optimizer: Annotated[
        str | keras.optimizers.Optimizer, OneOf(optimizers.OPTIMIZERS)
    ] = "adamw"
    learning_rate: groups.NotNegative = 1e-4
    lr_scaling: Literal[schedules.RULES] = "none"
    lr_final: groups.NotNegative = 0.0125
    weight_decay: groups.NotNegative = 1e-4
    warmup_epochs: groups.NotNegative = 0.0


@dataclasses.dataclass(frozen=True)
class Network:
    """The tokenizer, see `models.Tokenizer`.

    Attributes:
        vocabulary: number of codes.
        downsampling: pixels along a side of what a token stands for, a power of 2.
        width: filters at the images' size, a multiple of 4; they double with every
            halving.
        blocks: residual blocks at each size.
        decoder_width: filters of the decoder's first layer.
        likelihood: what the decoder says of a pixel: `logit_laplace`, a density, or
            `mse`, the pixel.
    """

    vocabulary: Annotated[int, Range(2)] = 8192
    downsampling: Annotated[int, Range(2)] = 8
    width: groups.Count = 256
    blocks: groups.Count = 2
    decoder_width: groups.Count = 128
    likelihood: Literal[tuple(pixel_maps.OUTPUTS)] = "logit_laplace"

    def build(self, channels):
        """A new tokenizer of images of so many channels."""
        return models.Tokenizer(channels=channels, **vars(self))


@dataclasses.dataclass(frozen=True)
class Learning:
    """How a tokenizer learns, see `methods.DVAE`.

    Attributes:
        recipe: the view, a name in `recipes.RECIPES` or a recipe of one view that does
            not normalise.
        image_size: pixels of the view; None keeps the recipe's.
        augment: random views; off to look for mistakes.
        epochs: passes over the data.
        batch_size: images per step, over all replicas together.
        temperature: of the Gumbel-softmax at the end; it begins at 1.
        temperature_epochs: epochs in which it falls; None takes half of the training.
        kl_weight: weight of the KL divergence at the end, DALL-E's beta; it begins at
            0. With `mse` take 0 or little.
        kl_epochs: epochs in which it rises; None takes a twentieth of the training.
        averaging: momentum of a moving average of the weights, which is then what is
            saved; 0 is none, 0.999 DALL-E's.
    """

    recipe: Annotated[str | Sequence[Any], OneOf(recipes.RECIPES)] = "tokenizer"
    image_size: groups.ImageSize = None
    augment: bool = True
    epochs: groups.Count = 100
    batch_size: groups.Count = 256
    temperature: groups.Positive = 1 / 16
    temperature_epochs: Annotated[float | None, Range(0)] = None
    kl_weight: groups.NotNegative = 6.6
    kl_epochs: Annotated[float | None, Range(0)] = None
    averaging: Annotated[float, Range(0, 0.99999)] = 0.0

    def view(self):
        """The recipe of one view.

        Raises:
            ValueError: for one of several views, in tiles, or with a normalisation.
        """
        given = recipes.get(self.recipe)
        if len(given) != 1 or given[0] != given[0].untiled():
            raise ValueError(
                f"The recipe {given.name!r} has {len(given)} view(s), one of them in "
                "tiles or not, but a tokenizer takes one whole view; choose another, "
                "as tokenizer."
            )
        if given[0].mean is not None or given[0].std is not None:
            raise ValueError(
                f"The recipe {given.name!r} normalises (mean {given[0].mean}, std "
                f"{given[0].std}), but a tokenizer takes pixels in [0, 1]; choose a "
                "recipe without, as tokenizer."
            )
        return given.scaled(self.image_size) if self.image_size else given

    def of_method(self, plan):
        """The arguments of `methods.DVAE`, a dict.

        Args:
            plan: `trainer.Plan`.
        """

        def steps(epochs, share):
            if epochs is None:
                epochs = share * self.epochs
            return max(1, round(epochs * plan.steps_per_epoch))

        return {
            "temperature": self.temperature,
            "temperature_steps": steps(self.temperature_epochs, 1 / 2),
            "kl_weight": self.kl_weight,
            "kl_steps": steps(self.kl_epochs, 1 / 20),
            "averaging": self.averaging,
            "seed": plan.seed,
        }


@dataclasses.dataclass(frozen=True)
class Watching:
    """What watches the training of a tokenizer.

    Attributes:
        max_bad_fraction: share of unreadable images that stops the run.
        stop_on_collapse: stop, rather than warn, when one code stands for all images.
    """

    max_bad_fraction: groups.Share = 0.01
    stop_on_collapse: bool = False


class Watch:
    """The monitors of a tokenizer's training, as `monitoring.Watch`.

    Args:
        plan: `trainer.Plan`.
        chosen: `Watching`.
        callbacks: Keras callbacks of the user's, called after the monitors.
    """

    best_by = None  # No number of an epoch says which weights are the best.

    def __init__(self, plan, chosen, callbacks=()):
        self._plan, self._chosen = plan, chosen
        self._callbacks = list(callbacks)
        self.bad_files = []
        self.told = []

    def variables(self):
        """Nothing is saved beside the model."""
        return {}

    def judging(self):
        """Nothing judges the epochs."""

    def callbacks(self, model, trainer, resumed):
        """As of `monitoring.Watch`."""
        watching = code_use.CodeUse(
            monitoring.fixed_images(self._plan),
            stop=self._chosen.stop_on_collapse,
            workers=trainer.workers,
        )
        return monitoring.in_order([watching], trainer, (), self._callbacks)
