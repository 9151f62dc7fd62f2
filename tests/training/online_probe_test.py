import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.training import monitors_test
from tfssl import methods
from tfssl.evaluation import linear_heads
from tfssl.models import norms
from tfssl.training import checkpoint, online_probe


def method_of(policy="float32", rate=0.1, **compiled):
    keras.utils.set_random_seed(0)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        inputs = keras.Input((8, 8, 3))
        x = keras.layers.Conv2D(8, 3)(inputs)
        x = norms.BatchNorm(statistics="global")(x)
        x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
        method = methods.SimCLR(keras.Model(inputs, x), projection_dim=4)
        method.compile(keras.optimizers.SGD(rate, momentum=0.9), **compiled)
        method.build_optimizer()
        return method
    finally:
        keras.config.set_dtype_policy(before)


def labelled(position, count=48, batch=8):
    """Endless batches of two colours, as `data.multiview` gives them."""
    images = next(iter(monitors_test.labelled(count, seed=5).unbatch().batch(count)))
    rows = tf.range(count, dtype=tf.int64)
    batches = tf.data.Dataset.from_tensor_slices(
        {
            "views": {"view_0": images["image"]},
            "label": 3 + 4 * images["label"],  # Labels 3 and 7.
            "position": rows,
        }
    )
    numbered = tf.data.Dataset.range(10).flat_map(
        lambda epoch: batches.map(
            lambda b: b | {"position": b["position"] + epoch * count}
        )
    )
    return numbered.skip(position).batch(batch)


def queries():
    return monitors_test.labelled(seed=1).map(
        lambda b: b | {"label": 3 + 4 * b["label"]}
    )


def probe_of(**options):
    settings = {"dim": 8, "rate": 0.05} | options
    return online_probe.OnlineProbe(labelled, queries(), [3, 7], **settings)


def values(method):
    named = checkpoint.named_variables(method)
    return {name: tf.convert_to_tensor(v).numpy() for name, v in named.items()}


def trained(method, callbacks, strategy=None):
    data = monitors_test.batches(4).repeat()
    if strategy is not None:
        data = strategy.experimental_distribute_dataset(data)
    return method.fit(
        data, epochs=3, steps_per_epoch=4, verbose=0, shuffle=False,
        callbacks=callbacks,
    )  # fmt: skip


@pytest.mark.parametrize(
    "case",
    ["float32", "mixed_float16", "mixed_bfloat16", "fused", "mirrored"],
)
def test_pretraining_is_bit_equal_with_and_without_the_probe(case, mirrored):
    """Weights, optimizer slots, moving statistics, counters and metrics."""
    policy = case if case.startswith("mixed") else "float32"
    options = {"steps_per_execution": 2} if case == "fused" else {}
    found = []
    for probes in ([], [probe_of()]):
        strategy = mirrored(2) if case == "mirrored" else None
        scope = strategy or tf.distribute.get_strategy()
        with scope.scope():
            method = method_of(policy, **options)
            history = trained(method, probes, strategy).history
        found.append(values(method))
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        np.testing.assert_array_equal(value, found[1][name], err_msg=name)
    assert any("moving" in name for name in found[0])
    assert any("momentum of" in name for name in found[0])
    accuracies = history["probe_accuracy"]
    assert len(accuracies) == 3 and accuracies[-1] == 1.0
    # One step of the probe per training step, also where a call runs two.
    state = probes[0].variables()
    assert int(state["online_probe/step"]) == 12
    assert int(state["online_probe/position"]) == 12 * 8


def test_equals_the_classifier_written_out():
    # An encoder at rest: inference features of frozen weights, step by step. (Moving
    # statistics would still move, so batch norm is left out.)
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(8, 3)(inputs))
    method = methods.SimCLR(keras.Model(inputs, x), projection_dim=4)
    method.compile(keras.optimizers.SGD(0.0))
    probe = probe_of(every_steps=3, every=2, epochs=3)
    history = trained(method, [probe]).history
    heads = linear_heads.LinearHeads([0.05], [0.0], [0], 8, 2, standardize=True)
    state = heads.start()
    for batch in labelled(0).take(12 // 3):
        features = method.encoder(batch["views"]["view_0"], training=False)
        column = tf.cast(batch["label"] == 7, tf.int32)
        state = heads.update(state, features, column, tf.ones([8, 1]), 1.0)
    for name, value in state.items():
        np.testing.assert_allclose(
            value, probe.variables()[f"online_probe/{name}"], atol=1e-5
        )
    # Epoch 2 (every second) and 3 (the last).
    assert len(history["probe_accuracy"]) == 2


def test_classes_that_it_does_not_know():
    probe = online_probe.OnlineProbe(
        lambda position: labelled(position).map(
            # Images of 7 come as 5, which is no class of the probe: they must not
            # train; 4 is a class that never comes.
            lambda b: b | {"label": tf.where(b["label"] == 7, np.int64(5), b["label"])}
        ),
        queries().map(
            lambda b: b | {"label": tf.where(b["label"] == 7, np.int64(-1), b["label"])}
        ),
        [3, 4],
        dim=8,
        rate=0.5,
    )
    history = trained(method_of(), [probe]).history
    # Only class 3 was seen; unlabelled test images are left out of the accuracy.
    assert history["probe_accuracy"][-1] == 1.0


def test_state_of_another_shape_or_none_starts_anew(tmp_path, caplog):
    method, probe = method_of(), probe_of()
    trained(method, [probe])
    with_probe = checkpoint.save(str(tmp_path / "a"), method, also=probe.variables())
    without = checkpoint.save(str(tmp_path / "b"), method)

    again = probe_of()
    again.restore(with_probe)
    for name, value in probe.variables().items():
        np.testing.assert_array_equal(value, again.variables()[name])
    fresh = {k: v.numpy() for k, v in probe_of().variables().items()}
    for path, options in ((without, {}), (with_probe, {"dim": 9})):
        caplog.clear()
        other = probe_of(**options)
        other.restore(path)
        assert int(other.variables()["online_probe/step"]) == 0
        assert [r for r in caplog.messages if "it starts anew" in r]
    assert all((fresh[k] == v.numpy()).all() for k, v in probe_of().variables().items())
    # The method itself does not care whether a probe is in its checkpoint.
    for path in (with_probe, without):
        target = method_of()
        checkpoint.restore(path, target)
        for name, value in values(method).items():
            np.testing.assert_array_equal(value, values(target)[name], err_msg=name)
