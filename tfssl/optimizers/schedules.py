"""Schedules: pure functions of the global step."""

import math

import keras
from keras import ops

from tfssl import checks

RULES = ("linear", "sqrt", "none")


def scaled_rate(base, batch_size, rule="linear"):
    """The learning rate for a batch size.

    Args:
        base: float, the base rate.
        batch_size: int >= 1, the global batch (images, not views).
        rule: `"linear"`: `base * batch_size / 256`; `"sqrt"`:
            `base * sqrt(batch_size)`, better for small batches; `"none"`:
            `base`.

    Returns:
        float.

    Raises:
        ValueError: if the rule is unknown or the batch smaller than 1.

    Reference:
        Chen et al., 2020, https://arxiv.org/abs/2002.05709, section 2.2 and
        appendix B.1: 0.3 linear and 0.075 sqrt both give 4.8 at batch 4096.
    """
    checks.whole({"batch_size": batch_size}, "batch_size")
    checks.one_of({"rule": rule}, "rule", RULES)
    if rule == "linear":
        return base * batch_size / 256
    if rule == "sqrt":
        return base * math.sqrt(batch_size)
    return base


def cosine(step, start, end, total):
    """Half a cosine from `start` at step 0 to `end` at step `total`.

    `end + (start - end) * (1 + cos(pi * step / total)) / 2`, and `end` from
    `total` on. BYOL's target momentum is `cosine(step, 0.996, 1.0, total)`.

    Args:
        step: int, or integer scalar tensor or variable, >= 0.
        start: float.
        end: float.
        total: int > 0.

    Returns:
        float32 scalar tensor.
    """
    share = ops.minimum(ops.cast(step, "float32") / total, 1.0)
    return end + (start - end) * 0.5 * (1.0 + ops.cos(math.pi * share))


@keras.saving.register_keras_serializable(package="tfssl")
class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then half a cosine.

    Step 0 has rate `start`, step `warmup_steps` has `peak`, step `total_steps` and
    all later ones have `final`.

    Args:
        peak: float > 0, the highest rate.
        warmup_steps: int >= 0.
        total_steps: int > `warmup_steps`, warm-up included.
        final: float >= 0, the rate at the end.
        start: float >= 0, the rate at the beginning of a warm-up.
        hold: int >= 1, the steps of an epoch where the cosine falls once per epoch:
            step `s` after the warm-up has the rate of step `s // hold * hold`. 1 lets
            it fall at every step.

    Raises:
        ValueError: if the steps are out of order, or `hold` is below 1.

    Reference:
        google-research/simclr, tf2/model.py (`WarmUpAndCosineDecay`);
        facebookresearch/moco, main_moco.py (`adjust_learning_rate`), by epochs.
    """

    def __init__(self, peak, warmup_steps, total_steps, final=0.0, start=0.0, hold=1):
        if not 0 <= warmup_steps < total_steps:
            raise ValueError(
                f"warmup_steps={warmup_steps} received with total_steps={total_steps}, "
                "expected fewer, and none below 0; train longer or warm up for less."
            )
        checks.whole({"hold": hold}, "hold")
        self.peak = peak
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps
        self.final = final
        self.start = start
        self.hold = hold

    def __call__(self, step):
        """The rate of `step`, a float32 scalar."""
        held = ops.floor_divide(ops.cast(step, "int64"), self.hold) * self.hold
        step = ops.cast(step, "float32")
        decay_steps = self.total_steps - self.warmup_steps
        after = ops.maximum(ops.cast(held, "float32") - self.warmup_steps, 0.0)
        decayed = cosine(after, self.peak, self.final, decay_steps)
        return _warming_up(step, self.start, self.peak, self.warmup_steps, decayed)

    def get_config(self):
        """Every constructor argument."""
        return {
            "peak": self.peak,
            "warmup_steps": self.warmup_steps,
            "total_steps": self.total_steps,
            "final": self.final,
            "start": self.start,
            "hold": self.hold,
        }


@keras.saving.register_keras_serializable(package="tfssl")
class WarmupSteps(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then a rate that drops at some steps, or never.

    Args:
        peak: float > 0, the rate after the warm-up.
        boundaries: ints, steps from which on the rate is multiplied by `factor` once
            more; empty for a constant rate (DeepCluster). MoCo v1: epochs 120 and 160.
        factor: float > 0.
        warmup_steps: int >= 0.
        start: float >= 0, the rate at the beginning of a warm-up.

    Raises:
        ValueError: if a boundary lies in the warm-up.
    """

    def __init__(self, peak, boundaries=(), factor=0.1, warmup_steps=0, start=0.0):
        if any(boundary < warmup_steps for boundary in boundaries):
            raise ValueError(
                f"boundaries={tuple(boundaries)} received with "
                f"warmup_steps={warmup_steps}, expected drops after the warm-up."
            )
        self.peak = peak
        self.boundaries = tuple(boundaries)
        self.factor = factor
        self.warmup_steps = warmup_steps
        self.start = start

    def __call__(self, step):
        """The rate of `step`, a float32 scalar."""
        step = ops.cast(step, "float32")
        rate = ops.cast(self.peak, "float32")
        for boundary in self.boundaries:
            rate = ops.where(step >= boundary, rate * self.factor, rate)
        return _warming_up(step, self.start, self.peak, self.warmup_steps, rate)

    def get_config(self):
        """Every constructor argument."""
        return {
            "peak": self.peak,
            "boundaries": self.boundaries,
            "factor": self.factor,
            "warmup_steps": self.warmup_steps,
            "start": self.start,
        }


def _warming_up(step, start, peak, warmup_steps, after):
    """The rate of a linear warm-up, or the one `after` it."""
    if warmup_steps == 0:
        return after
    rising = start + (peak - start) * step / warmup_steps
    return ops.where(step < warmup_steps, rising, after)
