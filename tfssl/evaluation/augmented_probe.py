"""The papers' linear evaluation: a classifier trained on augmented images.

The encoder is frozen and in inference mode; the training images pass through a
random crop and flip, anew in every epoch; a linear classifier is trained on the
pooled features by SGD. The right learning rate differs by a factor of 100 between
methods, so all rates of a grid see each batch of features at once
(`linear_heads`), and a held-out part of the training images chooses: never the test
images. 20 rates cost 1.03 times the CPU time of 1 (`make bench-probe`, ResNet-18, 512
features, 100 classes, batch 64).

References and what they use (here: `optimizer="sgd"`, 90 epochs, cosine, no decay):

* SimCLR, https://arxiv.org/abs/2002.05709: Nesterov, rate 0.1 x
  batch / 256, batch 4096, 90 epochs, no weight decay;
* BYOL, https://arxiv.org/abs/2006.07733: Nesterov, 80 epochs, five
  rates at batch 1024, chosen on 10,009 held-out training images;
* MoCo, https://arxiv.org/abs/1911.05722: rate 30, 100 epochs, x 0.1 after 60 and 80
  (`schedule="step"`), plain momentum;
* MAE, https://arxiv.org/abs/2111.06377: LARS, batch norm without scale and
  offset (`standardize=True`), normal start.

Departures: the classifier whose accuracy is reported has seen the held-out images as
well. It is trained beside the choosing ones in the same pass, with a rate of the same
grid, so nothing is trained twice. One device: the encoder's pass is what takes the
time, and it could be spread; the update would gain nothing.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfssl import checks, internals, progress
from tfssl.data import labels as labels_lib
from tfssl.data import pipeline, views
from tfssl.evaluation import features as features_lib
from tfssl.evaluation import judging, linear_heads, supervised

# Base rates: SimCLR and MoCo v3 take 0.1, BYOL's code 0.2, SwAV 0.3, MoCo 30.
RATES = {
    "sgd": (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0),
    "lars": (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0),
}
SCHEDULES = ("cosine", "step")


@dataclasses.dataclass(frozen=True)
class AugmentedResult:
    """What the probe found, and how.

    Attributes:
        accuracy: top-1 on the test features, in [0, 1].
        top5: top-5 (at most all classes), in [0, 1].
        rate: the chosen base rate; times batch / 256 it is the peak.
        weight_decay: the chosen weight decay.
        validation: tuple of `(rate, weight decay, accuracy)` on the held-out images,
            one per pair of the grid; empty where nothing was held out.
        steps: updates of the classifier.
        protocol: one line that says how the number was made.
    """

    accuracy: float
    top5: float
    rate: float
    weight_decay: float
    validation: tuple
    steps: int
    protocol: str


def crop_and_flip(preprocessing):
    """The papers' views: an area of 8 to 100 %, mirrored half of the time."""
    return supervised.crop_and_flip(preprocessing, area=(0.08, 1.0), flip=0.5)


@dataclasses.dataclass(frozen=True)
class Augmented(judging.Probe):
    """The probe, with its options.

    Attributes:
        recipe: views of the training images, of which the first is used. None:
            `crop_and_flip`, or, where the views that the encoder was trained on have no
            flips, their geometry: there a mirror image is another thing (digits).
        epochs: passes over the images, but at least `min_steps` steps.
        min_steps: see `epochs`; few labels would otherwise mean few steps.
        batch_size: images per step, at most their number.
        optimizer: `"sgd"` or `"lars"`, see `linear_heads.LinearHeads`.
        schedule: `"cosine"` to 0, or `"step"`: x 0.1 after 60 % and 80 %.
        rates: base learning rates, which are multiplied by batch / 256; None: `RATES`.
        weight_decays: second axis of the grid.
        initial: `"zeros"` or `"normal"`; None: zeros for SGD, normal for LARS.
        standardize: batch norm without scale and offset before the classifier.
        validation_fraction: held-out share per class, in (0, 1). Nothing is held
            out if the grid is a single pair, nor where a class has one image: the
            middle of the grid is then taken, and the protocol says so.
        draws: draws of the labels below 100 % that it is trained on.
    """

    name = "augmented"
    titles = {"augmented": "Linear probe trained on augmented images"}

    recipe: Sequence[views.View] | None = None
    epochs: int = 90
    min_steps: int = 300
    batch_size: int = 256
    optimizer: str = "sgd"
    schedule: str = "cosine"
    rates: Sequence[float] | float | None = None
    weight_decays: Sequence[float] | float = (0.0,)
    initial: str | None = None
    standardize: bool = False
    validation_fraction: float = 0.2
    draws: int = 1

    def __post_init__(self):
        given = vars(self)
        if isinstance(self.recipe, str):
            raise ValueError(
                f"recipe={self.recipe!r} received for the augmented probe, expected "
                "views, such as tfssl.data.recipes.get(name)."
            )
        checks.whole(given, "epochs", "batch_size", "draws")
        checks.whole(given, "min_steps", least=0)
        checks.true_share(given, "validation_fraction")
        checks.one_of(given, "standardize", (True, False))
        if self.schedule not in SCHEDULES:
            raise ValueError(
                f"schedule={self.schedule!r} received for the augmented probe, "
                f"expected one of {', '.join(SCHEDULES)}."
            )
        linear_heads.check(*self._axes(), self.optimizer, self._start())

    def _axes(self):
        """The rates and the weight decays of the grid."""
        rates = self.rates
        if rates is None:
            rates = RATES.get(self.optimizer, (1.0,))
        return np.atleast_1d(rates).tolist(), np.atleast_1d(self.weight_decays).tolist()

    def _start(self):
        return self.initial or ("normal" if self.optimizer == "lars" else "zeros")

    def rows(self, subject, budgets):
        if subject.network is None:
            return  # Pixels have no encoder to train on.
        setting = subject.setting
        probe = self
        if self.recipe is None:
            view = _probe_view(setting.view, setting.preprocessing)
            probe = dataclasses.replace(self, recipe=(view,))
        for budget in budgets:
            results = [
                probe.train(
                    subject.network,
                    setting.train,
                    bank,
                    subject.queries,
                    preprocessing=setting.preprocessing,
                    seed=setting.seed + draw,
                    verbose=setting.verbose,
                )
                for draw, bank in enumerate(budget.banks(subject, self.draws))
            ]
            first = results[0]
            yield subject.row(
                budget.name,
                "augmented",
                [result.accuracy for result in results],
                judging.first_protocol(results),
                top5=float(np.mean([result.top5 for result in results])),
                rate=first.rate,
                weight_decay=first.weight_decay,
                validation=[list(pair) for pair in first.validation],
            )

    def train(self, encoder, source, bank, test, *, preprocessing, seed=0, verbose=1):
        """Trains classifiers and scores the best one, see the function `train`."""
        bank, classes = _checked(bank, test)
        batch_size = min(self.batch_size, len(bank))
        grid = list(itertools.product(*self._axes()))
        held, pairs = _plan(bank, grid, self.validation_fraction, seed)
        # With held-out images every pair trains twice: without them, and with them.
        groups = [0] * len(pairs) * bool(held.any()) + [1] * len(pairs)
        rates, decays = zip(*(pairs * 2)[: len(groups)])
        heads = linear_heads.LinearHeads(
            [rate * batch_size / 256 for rate in rates],
            decays,
            groups,
            bank.values.shape[1],
            len(classes),
            optimizer=self.optimizer,
            initial=self._start(),
            standardize=self.standardize,
            seed=seed,
        )
        per_epoch = len(bank) // batch_size
        steps = max(self.epochs, -(-self.min_steps // per_epoch)) * per_epoch
        recipe = self.recipe or crop_and_flip(preprocessing)
        positions = np.searchsorted(classes, bank.labels)
        dataset = _batches(source, bank.index, recipe, batch_size, seed)
        factors = _factors(self.schedule, steps)
        state = _trained(heads, encoder, dataset, positions, held, factors, verbose)
        best, validation = _choose(
            heads, state, bank.take(held), positions[held], pairs
        )
        top1, top5, loss = (
            column[len(groups) - len(pairs) + best]
            for column in heads.scores(state, test.values, _columns(test, classes))
        )
        if not np.isfinite(loss):
            raise ValueError(
                f"No learning rate of {', '.join(f'{r:g}' for r, _ in pairs)} trained "
                "the linear classifier without overflow; add smaller ones."
            )
        protocol = _protocol(
            heads,
            recipe[0],
            preprocessing,
            f"{self.schedule} schedule, {steps:,} steps of {batch_size} "
            f"({steps // per_epoch} epochs)",
            _choice(grid, pairs[best], validation, int(held.sum())),
            f"{len(bank)} train / {len(test)} test images",
            f"top-{min(5, len(classes))} {100 * top5:.1f}",
        )
        return AugmentedResult(
            float(top1), float(top5), *pairs[best], validation, steps, protocol
        )


def train(encoder, source, bank, test, *, preprocessing, seed=0, verbose=1, **options):
    """Trains linear classifiers on augmented images and scores the best one.

    On a CPU the same call gives the same number on the same machine; a GPU sums in an
    order of its own.

    Args:
        encoder: Keras model, images -> pooled features `(batch, dim)`. Called with
            `training=False` only; no variable of it changes by a bit.
        source: `data.Source` of the training images.
        bank: labelled `Features` of those images of `source` whose labels may be
            used, without augmentation (`index` says which). Held-out images are
            scored by them.
        test: labelled `Features` of the test images; never looked at before the
            final score. Classes that `bank` does not have count as wrong.
        preprocessing: the `data.Preprocessing` of both.
        seed: int, of the held-out choice, the order, the views and the start.
        verbose: 0 silent, 1 progress.
        **options: see the attributes of `Augmented`.

    Returns:
        `AugmentedResult`.

    Raises:
        ValueError: on missing labels, non-finite features, fewer than two classes,
            arguments out of range, or if no rate trains without overflow.
    """
    return Augmented(**options).train(
        encoder,
        source,
        bank,
        test,
        preprocessing=preprocessing,
        seed=seed,
        verbose=verbose,
    )


def _probe_view(view, preprocessing):
    """The papers' crop and flip; a view without flips keeps its own geometry."""
    if view.flip:
        return crop_and_flip(preprocessing)[0]
    return supervised.geometry(view)


def _checked(bank, test):
    """The training features in the order of their images, and their classes."""
    features_lib.check_labeled(bank, "The augmented probe", "training")
    features_lib.check_labeled(test, "The augmented probe", "test")
    classes = np.unique(bank.labels)
    if len(classes) < 2:
        raise ValueError(
            "The augmented probe needs at least two classes, but every training image "
            f"has label {classes[0]}."
        )
    return bank.take(np.argsort(bank.index, kind="stable")), classes


def _columns(test, classes):
    """The place of each image's class among those of the training images, or -1."""
    known = np.isin(test.labels, classes)
    return np.where(known, np.searchsorted(classes, test.labels), -1)


def _plan(bank, pairs, fraction, seed):
    """Which rows are held out, and the pairs (rate, weight decay) to train."""
    held = labels_lib.held_out(bank.labels, fraction, np.random.default_rng((seed, 0)))
    if len(pairs) > 1 and held.any():
        return held, pairs
    return np.zeros(len(bank), bool), sorted(pairs)[len(pairs) // 2 :][:1]


def _batches(source, index, recipe, batch_size, seed):
    """Endless batches of the images `index`, numbered by their place in it."""
    if len(index) < source.num_images:
        source = source.subset(index)
    views = [recipe[0].untiled()]
    return pipeline.multiview(source, views, batch_size=batch_size, seed=seed)


def _trained(heads, encoder, dataset, positions, held, factors, verbose):
    """The state after one update per factor."""
    labels = tf.constant(positions, tf.int64)
    kept = tf.constant(~held, tf.float32)

    def update(state, images, rows, factor):
        weights = tf.stack([tf.gather(kept, rows), tf.ones_like(rows, tf.float32)], 1)
        return heads.update(
            state,
            features_lib.forward(encoder, images),
            tf.gather(labels, rows),
            weights,
            factor,
        )

    step = internals.function(update, autograph=True)
    state = heads.start()
    bar = progress.bar(factors, wanted=verbose, desc="probe", unit="step", leave=False)
    for factor, batch in zip(bar, dataset):
        images = batch["views"]["view_0"]
        state = step(state, images, batch["index"], tf.constant(factor, tf.float32))
    return state


def _factors(schedule, steps):
    """What the rates are multiplied by in every step, starting at 1."""
    share = np.arange(steps) / steps
    if schedule == "cosine":
        return 0.5 * (1 + np.cos(math.pi * share))
    return np.where(share < 0.6, 1.0, np.where(share < 0.8, 0.1, 0.01))


def _choose(heads, state, held, positions, pairs):
    """Place of the best pair in the grid, and all held-out accuracies."""
    if not len(held):
        return 0, ()
    top1, _, loss = heads.scores(state, held.values, positions)
    count = len(pairs)
    # The classifier that will be reported must not have overflowed either.
    finite = np.isfinite(loss[:count]) & np.isfinite(loss[count:])
    order = np.lexsort((loss[:count], -top1[:count], ~finite))
    validation = tuple((*pair, float(score)) for pair, score in zip(pairs, top1))
    return int(order[0]), validation


def _choice(grid, chosen, validation, num_held):
    """How the rate was chosen, in words."""
    rate, decay = chosen
    text = f"rate {rate:g} x batch / 256"
    if decay:
        text += f", weight decay {decay:g}"
    if len(grid) == 1:
        return f"{text} given"
    if not validation:
        return f"{text}, nothing held out to choose by"
    several = len({d for _, d in grid}) > 1
    scores = "; ".join(
        f"{r:g}{f' and decay {d:g}' if several else ''}: {100 * score:.1f}"
        for r, d, score in validation
    )
    text += f" by accuracy on {num_held} held-out images ({scores})"
    tried = {r for r, _ in grid}
    if len(tried) > 1 and rate in (min(tried), max(tried)):
        text += ", at the end of the grid: widen it"
    return text


def _protocol(heads, view, preprocessing, length, choice, images, top5):
    crop = supervised.geometry_told(view)
    test_crop = f"{preprocessing.crop:g} of the shorter side"
    if preprocessing.crop == 1:
        test_crop = "whole image"
    scaled = "batch norm (no scale, no offset)" if heads.standardize else "raw"
    return (
        f"linear probe on augmented images ({crop}; test: {test_crop}), "
        f"{linear_heads.OPTIMIZERS[heads.optimizer]}, {length}, {choice}, "
        f"{heads.initial} start, {scaled} features ({heads.dim}), {images}, {top5}"
    )
