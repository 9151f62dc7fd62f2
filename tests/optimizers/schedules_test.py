import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl.optimizers import schedules


def test_scaled_rate_of_the_paper():
    # SimCLR at batch 4,096: both rules give 4.8.
    assert schedules.scaled_rate(0.3, 4096) == pytest.approx(4.8)
    assert schedules.scaled_rate(0.075, 4096, "sqrt") == pytest.approx(4.8)
    assert schedules.scaled_rate(0.3, 256) == pytest.approx(0.3)
    assert schedules.scaled_rate(0.3, 4096, "none") == 0.3
    with pytest.raises(ValueError, match="rule='log' received, expected one of linear"):
        schedules.scaled_rate(0.3, 256, "log")
    with pytest.raises(ValueError, match="batch_size=0 received"):
        schedules.scaled_rate(0.3, 0)


@pytest.mark.parametrize(
    "step, expected",
    [
        (0, 0.0),
        (5, 2.4),  # Half of the warm-up.
        (10, 4.8),  # Its end: the peak.
        (35, 0.1 + 4.7 * (1 + np.cos(np.pi / 4)) / 2),  # A quarter of the decay.
        (60, 2.45),  # Half of it: the mean of peak and final.
        (110, 0.1),
        (1000, 0.1),
    ],
)
def test_warmup_cosine_golden_values(step, expected):
    schedule = schedules.WarmupCosine(4.8, 10, 110, final=0.1)
    assert float(schedule(step)) == pytest.approx(expected, abs=1e-6)
    variable = tf.Variable(step, dtype=tf.int64)
    compiled = tf.function(lambda: schedule(variable), jit_compile=True)
    assert float(compiled()) == pytest.approx(expected, abs=1e-6)


def test_no_warmup_starts_at_the_peak():
    schedule = schedules.WarmupCosine(2.0, 0, 4)
    # Half a cosine over 4 steps: (1 + cos(pi * step / 4)).
    expected = [2, 1 + np.sqrt(0.5), 1, 1 - np.sqrt(0.5), 0]
    values = [float(schedule(step)) for step in range(5)]
    np.testing.assert_allclose(values, expected, atol=1e-6)


@pytest.mark.parametrize("warmup, total", [(10, 10), (-1, 10), (0, 0)])
def test_steps_out_of_order(warmup, total):
    with pytest.raises(
        ValueError, match=f"warmup_steps={warmup} received with.*={total}, "
    ):
        schedules.WarmupCosine(1.0, warmup, total)


def test_a_warmup_may_start_above_zero():
    # SwAV at batch 4096: from 0.3 to 4.8 in 10 epochs, then to 0.0048.
    schedule = schedules.WarmupCosine(4.8, 10, 110, final=0.0048, start=0.3)
    expected = {0: 0.3, 5: 2.55, 10: 4.8, 60: 2.4024, 110: 0.0048}
    for step, rate in expected.items():
        assert float(schedule(step)) == pytest.approx(rate, abs=1e-6)


@pytest.mark.parametrize("epoch, inside", [(0, 0), (0, 4), (1, 0), (137, 3), (199, 4)])
def test_a_cosine_by_epochs_is_that_of_mocos_code(epoch, inside):
    schedule = schedules.WarmupCosine(0.03, 0, 200 * 5, hold=5)
    # main_moco.py: lr *= 0.5 * (1. + math.cos(math.pi * epoch / args.epochs))
    expected = 0.03 * 0.5 * (1 + np.cos(np.pi * epoch / 200))
    variable = tf.Variable(epoch * 5 + inside, dtype=tf.int64)
    for compiled in (False, True):
        found = tf.function(lambda: schedule(variable), jit_compile=compiled)()
        assert float(found) == pytest.approx(expected, abs=3e-8)


def test_epochs_count_from_the_start_of_the_run_behind_a_warmup():
    schedule = schedules.WarmupCosine(1.0, 2, 10, hold=4)  # Half an epoch of warm-up.
    found = [float(schedule(step)) for step in range(11)]
    by_step = schedules.WarmupCosine(1.0, 2, 10)
    kept = [float(by_step(step)) for step in (4, 8)]
    expected = [0, 0.5, 1, 1] + [kept[0]] * 4 + [kept[1]] * 3
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_nothing_to_hold_is_refused():
    with pytest.raises(
        ValueError, match="hold=0 received, expected a whole number, 1 or more"
    ):
        schedules.WarmupCosine(1.0, 0, 10, hold=0)


@pytest.mark.parametrize(
    "step, expected", [(0, 0.01), (1, 0.02), (2, 0.03), (11, 0.03), (12, 0.003),
                       (15, 0.003), (16, 0.0003), (100, 0.0003)],
)  # fmt: skip
def test_steps_drop_at_their_boundaries(step, expected):
    # MoCo v1 with 10 epochs for a step: 0.03, a tenth from 120, again from 160.
    schedule = schedules.WarmupSteps(0.03, (12, 16), warmup_steps=2, start=0.01)
    assert float(schedule(step)) == pytest.approx(expected, rel=1e-5)


def test_no_boundaries_are_a_constant_rate():
    schedule = schedules.WarmupSteps(0.05)
    assert {float(schedule(step)) for step in (0, 1, 10**6)} == {np.float32(0.05)}


def test_a_drop_inside_the_warmup_is_refused():
    with pytest.raises(ValueError, match=r"boundaries=\(3,\) .* warmup_steps=5"):
        schedules.WarmupSteps(0.1, (3,), warmup_steps=5)


@pytest.mark.parametrize(
    "schedule",
    [
        schedules.WarmupCosine(4.8, 10, 110, final=0.1, start=0.2, hold=5),
        schedules.WarmupSteps(0.1, (30, 40), 0.2, 3, 0.01),
    ],
)
def test_round_trip(schedule):
    config = keras.saving.serialize_keras_object(schedule)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(schedule)
    assert again.get_config() == schedule.get_config()


# BYOL's target momentum: tau at the start, (1 + tau) / 2 half way, 1 at the end.
@pytest.mark.parametrize(
    "step, expected", [(0, 0.996), (50, 0.998), (100, 1), (200, 1)]
)
def test_cosine(step, expected):
    assert float(schedules.cosine(step, 0.996, 1.0, 100)) == pytest.approx(expected)
    counter = keras.Variable(step, dtype="int64")
    assert float(schedules.cosine(counter, 0.996, 1.0, 100)) == pytest.approx(expected)
