"""What an encoder is judged by, and what it is compared with."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from absl import logging

from tfssl.evaluation import clusters as clusters_lib
from tfssl.evaluation import judging, linear_heads, linear_probe, probes, supervised
from tfssl.evaluation import stages as stages_lib
from tfssl.tasks import groups

BASELINES = ("raw_pixels", "random_encoder", "supervised")
COMPARED = (*BASELINES, "fine_tuned")
_BEGINNINGS = {"supervised": "random", "fine_tuned": "encoder"}  # Of what is trained.
_OPTIMIZERS = tuple(linear_heads.OPTIMIZERS)
_SCALINGS = tuple(linear_probe.SCALINGS)


@dataclasses.dataclass(frozen=True)
class ChosenProbes:
    """The probes and their options.

    Attributes:
        probes: what judges the features, each by itself. `"knn"`: weighted nearest
            neighbours. `"linear"`: a linear classifier of features computed once, by
            L-BFGS. `"augmented"`: the papers' linear probe, trained on augmented
            images, which takes an encoder pass per epoch
            (`evaluation.augmented_probe`). `"mlp"`: a classifier with hidden layers
            (`evaluation.dense_probe`). In Python also objects of
            `evaluation.judging.Probe`.
        knn_k: neighbours (at most the number of labelled images).
        knn_temperature: temperature of the vote.
        scaling: of the L-BFGS probe's features, `"unit"` or `"standard"`.
        probe_epochs: passes of the augmented probe.
        probe_rates: base learning rates of the augmented probe's grid, all tried in
            one pass; None takes `augmented_probe.RATES`.
        probe_optimizer: the augmented probe's optimizer, `"sgd"` or `"lars"`.
        probe_batch_size: images per step of the probes that are trained by steps.
        probe_options: further options of the chosen probes, the attributes of their
            classes: `{"min_steps": 100}` of all that have such an option,
            `{"mlp.units": 256}` of one.
        probe_draws: draws of the labelled images below 100 % that the augmented
            probe, the MLP and the probes of stages train on.
        stages: feature maps of the encoder to judge as well, of the trained and the
            random one: names, or `all`. Those of `probes` that are for many features
            judge them: the augmented one, the MLP, and for `"linear"` one that does
            not copy the features (`evaluation.dense_probe`).
        stage_features: numbers that a stage's map is averaged to at most, see
            `evaluation.stages.pooled`.
        clusters: number of clusters of k-means on the validation images' features,
            whose purity and NMI with the classes are reported; 0 for none.
    """

    probes: Sequence[str | judging.Probe] = ("knn", "linear")
    knn_k: groups.Count = 20
    knn_temperature: groups.Positive = 0.1
    scaling: Literal[_SCALINGS] = "unit"
    probe_epochs: groups.Count = 90
    probe_rates: Sequence[float] | None = None
    probe_optimizer: Literal[_OPTIMIZERS] = "sgd"
    probe_batch_size: groups.Count = 256
    probe_options: dict | None = None
    probe_draws: groups.Count = 1
    stages: Sequence[str] = ()
    stage_features: groups.Count = stages_lib.LIMIT
    clusters: groups.CountOrZero = 0

    def make(self):
        """The chosen `judging.Probe`s."""
        by_steps = {"batch_size": self.probe_batch_size, "draws": self.probe_draws}
        chosen = probes.chosen(
            self.probes,
            {
                "knn": {"k": self.knn_k, "temperature": self.knn_temperature},
                "linear": by_steps | {"scaling": self.scaling},
                "mlp": by_steps,
                "augmented": by_steps
                | {
                    "epochs": self.probe_epochs,
                    "rates": self.probe_rates,
                    "optimizer": self.probe_optimizer,
                },
            },
            self.probe_options,
        )
        if self.stages and not any(probe.of_stages for probe in chosen):
            raise ValueError(
                f"stages={','.join(self.stages)} received, but none of "
                f"probes={','.join(probe.name for probe in chosen)} judges stages; add "
                "linear, augmented or mlp."
            )
        if self.clusters:
            chosen.append(clusters_lib.Clusters(self.clusters))
        return chosen

    def stages_of(self, encoder):
        """The names of the stages to judge, in the order of the encoder.

        Raises:
            ValueError: if the encoder has no such stage, or none.
        """
        if not self.stages:
            return ()
        known = stages_lib.names(encoder)
        if "all" not in self.stages:
            stages_lib.check(encoder, self.stages)
            return tuple(name for name in known if name in self.stages)
        if len(self.stages) > 1:
            raise ValueError(
                f"stages={','.join(self.stages)} received, expected either all or some "
                f"of {', '.join(known)}."
            )
        return known

    def check_clusters(self, test_images):
        """Raises `ValueError` for more clusters than there are labelled test images."""
        if self.clusters > test_images:
            raise ValueError(
                f"clusters={self.clusters} received, expected 0 (none) to "
                f"{test_images}, the number of labelled validation images."
            )


@dataclasses.dataclass(frozen=True)
class Baselines:
    """What the encoder is compared with.

    Attributes:
        baselines: `raw_pixels`, the pixels themselves, `random_encoder`, the same
            encoder untrained, `supervised`, the same encoder trained on the labels from
            scratch; and `fine_tuned`, the encoder itself trained on the labels by the
            same steps. Empty for nothing. None takes the first three, without the
            pixels where these would take more than half of the free memory. All but
            the pixels are left out, with a warning, where Keras cannot build the
            encoder anew from its `get_config`.
        supervised_epochs: passes of the supervised baseline and of fine-tuning, see
            `evaluation.supervised.train`.
        supervised_min_steps: its steps at least: few labels make short epochs.
        supervised_draws: draws of the labels that they train on, which is slow.
    """

    baselines: Sequence[str] | None = None
    supervised_epochs: groups.Count = 30
    supervised_min_steps: groups.CountOrZero = 300
    supervised_draws: groups.Count = 1

    @property
    def names(self):
        """The baselines, also those that nobody asked for by name."""
        return BASELINES if self.baselines is None else self.baselines

    def check(self):
        """Raises `ValueError` for a baseline that there is not."""
        unknown = [name for name in self.names if name not in COMPARED]
        if unknown:
            raise ValueError(
                f"baseline {unknown[0]!r} received, expected some of "
                f"{', '.join(COMPARED)}."
            )

    def starts(self):
        """Where trainings on the labels begin, see `evaluation.supervised.train`."""
        return [s for name, s in _BEGINNINGS.items() if name in self.names]

    def of(self, encoder, seed):
        """The baselines of an encoder.

        Args:
            encoder: Keras model.
            seed: int, of the random weights.

        Returns:
            `(networks, probes)`: dict from a name to a Keras model that is judged
            beside the encoder, and list of what is trained on the labels.
        """
        if not set(self.names) - {"raw_pixels"}:
            return {}, []
        try:
            networks = {"random encoder": supervised.untrained(encoder, seed)}
        except ValueError as error:
            logging.warning(
                "The random encoder and what is trained on labels are left out. %s",
                error,
            )
            return {}, []
        trained = [
            supervised.Supervised(
                start=start,
                epochs=self.supervised_epochs,
                min_steps=self.supervised_min_steps,
                draws=self.supervised_draws,
            )
            for start in self.starts()
        ]
        return networks if "random_encoder" in self.names else {}, trained
