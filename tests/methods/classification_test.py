import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.methods import cases
from tests.methods.cases import batch_of, one_convolution, state
from tfssl import models, optimizers
from tfssl.methods import classification, mixing
from tfssl.models import heads, norms

NAMES = ("ant", "bee", "cat")


def method_of(encoder=None, **arguments):
    keras.utils.set_random_seed(1)
    encoder = encoder or one_convolution(norm=norms.BatchNorm())
    arguments = {"class_names": NAMES, **arguments}
    method = classification.Classification(encoder, **arguments)
    rng = np.random.default_rng(3)
    for variable in method.classifier.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))
    if method.average is not None:
        method.average.reset()
    return method


def batch(labels, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.uniform(size=(len(labels), 8, 8, 3)).astype("float32")
    return batch_of(images) | {"label": tf.constant(labels)}


LABELS = [0, 2, 1, 2, 0, 1]


def softmax_losses(logits, labels, smoothing, weights):
    """As the formula says it, row by row."""
    found = []
    for row, label in zip(np.asarray(logits, np.float64), labels):
        target = [smoothing / len(row)] * len(row)
        target[label] += 1 - smoothing
        log_p = row - np.log(np.exp(row).sum())
        found.append(-weights[label] * (target * log_p).sum())
    return found


@pytest.mark.parametrize("smoothing, weights", [(0.0, None), (0.2, (1.0, 3.0, 0.5))])
def test_loss_is_the_cross_entropy(smoothing, weights):
    method = method_of(label_smoothing=smoothing, class_weights=weights)
    values = method.image_losses(batch(LABELS), training=False)
    logits = method.logits(batch(LABELS)["views"]["view_0"])
    expected = softmax_losses(logits, LABELS, smoothing, weights or (1, 1, 1))
    np.testing.assert_allclose(values["loss"], expected, rtol=1e-5)
    right = np.argmax(logits, axis=1) == LABELS
    np.testing.assert_array_equal(values["accuracy"], right)


def test_loss_of_several_classes_leaves_out_what_nobody_knows():
    labels = [[1, 0, -1], [0, 0, 0], [-1, -1, -1], [1, 1, 1]]
    method = method_of(
        multilabel=True, label_smoothing=0.1, class_weights=(1.0, 3.0, 0.5)
    )
    assert method.logged == ("loss",)
    given = batch(labels)
    found = method.image_losses(given, training=False)["loss"]
    logits = np.asarray(method.logits(given["views"]["view_0"]), np.float64)
    for row, marks, loss in zip(logits, labels, found):
        terms = []
        for x, mark, weight in zip(row, marks, (1.0, 3.0, 0.5)):
            if mark < 0:
                continue
            target, p = 0.9 * mark + 0.05, 1 / (1 + np.exp(-x))
            term = -target * np.log(p) - (1 - target) * np.log(1 - p)
            terms.append(term * (weight if mark else 1))
        assert float(loss) == pytest.approx(np.mean(terms or 0.0), rel=1e-5)


def test_mixes_have_the_labels_of_both_images():
    method = method_of(mixup=0.4, cutmix=1.0, seed=5)
    given = batch(LABELS)
    found = method.image_losses(given, training=True)["loss"]
    plain = method_of()
    drawn = mixing.Mixing(0.4, 1.0).draw(5, given["position"])
    mixed, share = mixing.apply(given["views"]["view_0"], drawn)
    logits = plain.classifier(plain.encoder(mixed, training=True))
    partner = np.reshape(np.reshape(LABELS, [-1, 2])[:, ::-1], -1)
    own = np.array(softmax_losses(logits, LABELS, 0.0, (1, 1, 1)))
    other = np.array(softmax_losses(logits, partner, 0.0, (1, 1, 1)))
    np.testing.assert_allclose(found, share * own + (1 - share) * other, rtol=1e-5)
    # Held-out images are not mixed.
    held_out = method.image_losses(given, training=False)["loss"]
    np.testing.assert_array_equal(
        held_out, plain.image_losses(given, training=False)["loss"]
    )


def resnet():
    keras.utils.set_random_seed(2)
    return models.encoder("resnet18", input_shape=(8, 8, 3), width=0.0625, stem="cifar")


def trained(method, optimizer=None, steps=2):
    """`(before, after)` of every variable."""
    optimizer = optimizer or keras.optimizers.SGD(0.1)
    method.compile(optimizer)
    method.build_optimizer()
    before = state(method)
    for seed in range(steps):
        method.train_step(batch(LABELS, seed))
    return before, state(method)


def moved(before, after):
    return {name for name in before if not np.array_equal(before[name], after[name])}


@pytest.mark.parametrize("freeze", ["none", "res4", "conv1", "all"])
def test_what_is_frozen_does_not_move_by_a_bit(freeze):
    method = method_of(resnet(), freeze=freeze)
    before, after = trained(method)
    changed = moved(before, after)
    mine = {v.path for v in method.encoder.variables}
    stages = ("conv1", "res2", "res3", "res4", "res5")
    order = {"none": 0, "conv1": 1, "res4": 4, "all": 5}[freeze]
    frozen = {
        layer.name
        for stage in stages[:order]
        for layer in keras.Model(
            method.encoder.inputs, method.encoder.stage_outputs[stage]
        ).layers
    }
    still = {
        v.path
        for layer in method.encoder.layers
        if layer.name in frozen
        for v in layer.variables
    }
    assert changed & mine == mine - still
    if freeze != "all":  # Also the statistics of what is frozen stay.
        assert any("moving" in path for path in changed)
    assert {v.path for v in method.classifier.variables} <= changed


def test_all_frozen_is_inference_without_dropout():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D()(inputs)
    encoder = keras.Model(inputs, keras.layers.Dropout(0.9)(x))
    given = batch(LABELS)
    losses = [
        method_of(encoder, freeze=freeze).image_losses(given, training=True)["loss"]
        for freeze in ("none", "all", "all")
    ]
    np.testing.assert_array_equal(losses[1], losses[2])
    assert np.abs(losses[0] - losses[1]).max() > 0


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_layer_decay_is_another_rate_for_each_stage(name):
    def steps(decay):
        optimizer = optimizers.build(name, learning_rate=0.01, weight_decay=0.05)
        method = method_of(resnet(), layer_decay=decay)
        before, after = trained(method, optimizer, steps=1)
        return method, {key: after[key] - before[key] for key in before}

    method, plain = steps(1.0)
    _, decayed = steps(0.5)
    encoder = method.encoder
    depth_of = {v.path: 0 for v in method.classifier.variables}
    for depth, (_, output) in enumerate(reversed(encoder.stage_outputs.items()), 1):
        for layer in keras.Model(encoder.inputs, output).layers:
            depth_of |= {v.path: depth for v in layer.trainable_variables}
    assert sorted(set(depth_of.values())) == [0, 1, 2, 3, 4, 5]
    for path, depth in depth_of.items():
        np.testing.assert_allclose(
            decayed[path], 0.5**depth * plain[path], rtol=1e-2, atol=1e-8, err_msg=path
        )


@pytest.mark.parametrize("way", ["replicas", "compiled", "together"])
def test_frozen_stages_and_decayed_rates_in_every_way_of_training(
    way, monkeypatch, mirrored
):
    kind, given = cases.CASES["classification"]
    changes = dict(freeze="patches", layer_decay=0.5)
    monkeypatch.setitem(cases.CASES, "classification", (kind, given | changes))
    of_vit = dict(class_token=False, pooling="mean")
    monkeypatch.setitem(cases.TRANSFORMERS, "classification", of_vit)
    compiled = {
        "compiled": dict(jit_compile=True),
        "together": dict(steps_per_execution=3),
    }
    strategy = mirrored(2) if way == "replicas" else tf.distribute.get_strategy()
    plain = cases.make("classification")
    with strategy.scope():
        method = cases.make("classification", **compiled.get(way, {}))
    before = state(method)
    batches = cases.batches("classification")
    with cases.as_written("classification"):
        cases.train(plain, batches)
        cases.train(method, batches, strategy=strategy)
    after = state(method)
    tolerance = 1e-4 if way == "compiled" else cases.TOLERANCE
    cases.assert_close(state(plain), after, tolerance)
    still = {name for name in before if name.startswith(("patches/", "tokens/"))}
    assert still.isdisjoint(moved(before, after))
    learned = {variable.path for variable in method.learned_variables}
    assert len(still) == 3 and learned <= moved(before, after)


@pytest.mark.parametrize("name", ["lars", "larc", "lamb"])
@pytest.mark.parametrize("two_tokens", [False, True])
def test_a_classifier_grows_by_an_optimizer_of_layers(name, two_tokens):
    """It starts at zero, where a step of a share of its size leads nowhere."""
    inputs = keras.Input((4,))
    encoder = keras.Model(inputs, keras.layers.Activation("linear")(inputs))
    method = classification.Classification(encoder, class_names=NAMES)
    if two_tokens:
        last = heads.TwoTokens(len(NAMES), dtype="float32", name="logits")
        method.classifier = keras.Sequential([keras.Input((4,)), last])
    network = method.classifier
    optimizer = optimizers.build(name, learning_rate=0.02 if name == "lamb" else 0.1)
    optimizer.build(network.trainable_variables)
    features = np.tile(np.eye(len(NAMES), 2, dtype=np.float32), 2)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = keras.losses.sparse_categorical_crossentropy(
                tf.range(len(NAMES)), network(features), from_logits=True
            )
            loss = tf.reduce_mean(loss)
        variables = network.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    losses = [float(step()) for _ in range(60)]
    assert losses[-1] < 0.6 * losses[0]
    kernels = [v for v in network.trainable_variables if v.path.endswith("kernel")]
    assert len(kernels) == 1 + two_tokens
    assert min(np.linalg.norm(kernel) for kernel in kernels) > 1


def test_the_average_leaves_with_its_statistics():
    method = method_of(averaging=0.5)
    method.compile(keras.optimizers.SGD(0.5))
    method.build_optimizer()
    online = [*method.encoder.variables, *method.classifier.variables]
    expected = [np.array(v, np.float64) for v in online]
    for step in range(1, 5):
        method.train_step(batch(LABELS, step))
        momentum = min(0.5, step / (9 + step))
        expected = [
            momentum * old + (1 - momentum) * np.array(new)
            for old, new in zip(expected, online)
        ]
    encoder, head = method.product()
    for value, variable in zip(expected, [*encoder.variables, *head.variables]):
        np.testing.assert_allclose(variable, value, rtol=1e-5, atol=1e-7)
    images = batch(LABELS)["views"]["view_0"]
    np.testing.assert_array_equal(method.logits(images), head(encoder(images)))
    assert np.abs(method.logits(images) - method.embed(images)).max() > 1e-3


def test_what_leaves_can_be_trained_on():
    method = method_of(resnet(), freeze="all")
    encoder, _ = method.product()
    assert all(layer.trainable for layer in encoder.layers)


def test_replicas_need_pairs_to_mix(mirrored):
    method = method_of(mixup=0.2)
    method.check_run(6, None)
    with pytest.raises(ValueError, match="batch_size=5 received.*use an even number"):
        method.check_run(5, None)
    with mirrored(2).scope():
        method = method_of(mixup=0.2)
    with pytest.raises(ValueError, match="each of 2 replica.s. gets 3 images"):
        method.check_run(6, None)


def test_settings_that_cannot_work():
    for given, message in (
        ({"class_names": ("ant",)}, "class_names=.*expected 2 or more"),
        ({"layer_decay": 0.0}, "layer_decay=0.0"),
        ({"layer_decay": 0.5}, "names no stages"),
        ({"label_smoothing": 1.0}, "label_smoothing=1.0"),
        ({"class_weights": (1.0, 2.0)}, "expected 3 numbers above 0"),
        ({"averaging": 1.0}, "averaging=1.0"),
        ({"freeze": "res4"}, "expected none, all or a stage"),
    ):
        with pytest.raises(ValueError, match=message):
            method_of(**given)
