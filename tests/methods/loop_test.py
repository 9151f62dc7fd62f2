"""How the steps of any method are run: where the data end, and where a step fails."""

import numpy as np
import pytest
import tensorflow as tf

from tests.methods.case_table import BATCH
from tests.methods.cases import assert_close, batches, make, state
from tfssl import input_wait

STEPS = 5


def data(steps=STEPS, *, length_known=True):
    stream = batches("pretext_rotation", steps).batch(BATCH)
    return stream if length_known else stream.filter(lambda batch: True)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("length_known", [True, False])
@pytest.mark.parametrize("steps_per_execution, eagerly", [(1, True), (2, False)])
def test_data_may_end_again_and_again(length_known, steps_per_execution, eagerly):
    """Also among the steps of one execution, where plain Keras counts those before."""
    stream = data(length_known=length_known)
    plain = make("pretext_rotation")
    expected = plain.fit(data(), epochs=4, verbose=0).history["loss"]
    arguments = dict(steps_per_execution=steps_per_execution, run_eagerly=eagerly)
    method = make("pretext_rotation", **arguments)
    found = method.fit(stream, epochs=2, verbose=0).history["loss"]
    method.evaluate(stream, verbose=0)
    found += method.fit(stream, epochs=2, verbose=0).history["loss"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert int(method.step.numpy()) == 4 * STEPS
    assert_close(state(plain), state(method))


def test_fewer_batches_than_steps_of_an_execution_have_metrics(mirrored):
    one = make("pretext_rotation")
    expected = one.evaluate(data(), verbose=0)
    eight = make("pretext_rotation", steps_per_execution=8)
    assert eight.evaluate(data(), verbose=0) == pytest.approx(expected, rel=1e-5)
    assert eight.evaluate(data(), verbose=0) == pytest.approx(expected, rel=1e-5)
    losses = one.fit(data(), verbose=0).history["loss"]
    assert eight.fit(data(), verbose=0).history["loss"] == pytest.approx(losses)
    assert eight.waiting.number is None and not eight.waiting.stepping
    with mirrored(2).scope():
        both = make("pretext_rotation", steps_per_execution=8)
    assert both.evaluate(data(), verbose=0) == pytest.approx(expected, rel=1e-5)


def test_a_method_trains_on_after_a_step_that_failed():
    def fails(batch):
        right = tf.debugging.assert_less(batch["index"], np.int64(BATCH))
        with tf.control_dependencies([right]):
            return {**batch, "index": tf.identity(batch["index"])}

    method = make("pretext_rotation")
    with pytest.raises(tf.errors.InvalidArgumentError):
        method.fit(data().map(fails), verbose=0)
    assert int(method.step.numpy()) == 1
    method.fit(data(), verbose=0)
    assert int(method.step.numpy()) == 1 + STEPS


def test_no_step_is_waited_for_after_the_end_of_the_wait():
    method = make("pretext_rotation")
    method.waiting.interrupt("Enough")
    with pytest.raises(input_wait.Interrupted, match="Enough"):
        method.fit(data(), verbose=0)
    assert int(method.step.numpy()) == 0


def test_a_step_is_given_numbers_of_known_shape():
    """A TPU takes no others."""
    waiting = input_wait.InputWait()
    step = tf.function(lambda: waiting.arrive(waiting.ask()), autograph=False)
    assert step.get_concrete_function().structured_outputs.shape == ()
