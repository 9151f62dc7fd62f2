"""What is DINO's own; what every method promises is in contract_test.py."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.methods.cases import batch_of, one_convolution, two_views, unit
from tfssl import internals, methods, models
from tfssl.data.views import dino_recipes, recipes
from tfssl.models import dropout
from tfssl.training import monitors


def encoder():
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(6, 3)(inputs)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))


def make(network=None, optimizer=None, **arguments):
    keras.utils.set_random_seed(0)
    small = dict(
        num_outputs=5,
        projection_hidden=8,
        projection_dim=4,
        freeze_epochs=0,
        teacher_temperature=0.1,
        temperature=0.2,
    )
    method = methods.DINO(network or encoder(), **small | arguments)
    method.compile(optimizer or keras.optimizers.SGD(0.1))
    method.build_optimizer()
    return method


def crops(batch=6, seed=0):
    """Two large and two small views of images that differ in colour."""
    large, small = two_views(batch, seed), two_views(batch, seed + 1)
    views = [*large, *(view[:, 2:7, 1:6] for view in small)]
    colors = np.random.default_rng(seed).uniform(-2, 2, size=(batch, 1, 1, 3))
    return [(view + colors).astype("float32") for view in views]


def outputs(networks, view):
    """Cosines with the last layer's directions, in NumPy from the bottleneck on."""
    encoder, projector, last = networks
    z = projector(encoder(view, training=True), training=True)
    directions = last.layers[-1].directions
    return unit(z) @ unit(directions).T


def softmax(x):
    p = np.exp(x - x.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def test_loss_is_the_papers_and_the_numbers_are_those_of_its_outputs():
    method, views = make(), crops()
    rng = np.random.default_rng(3)
    center = rng.normal(size=5) / 10
    method.center.assign(center)
    for variable in method.target.trainable_variables:  # A teacher unlike its student.
        variable.assign(variable + 0.13 * rng.normal(size=variable.shape))
    values = method.image_losses(batch_of(*views), training=True)
    networks = method.encoder, method.projector, method.outputs_layer
    student = [softmax(outputs(networks, view) / 0.2) for view in views]
    logits = [outputs(method.target.networks, view) for view in views[:2]]
    teacher = [softmax((x - center) / 0.1) for x in logits]
    loss, entropy = np.zeros(6), np.zeros(6)
    for i, q in enumerate(teacher):
        entropy -= (q * np.log(q)).sum(axis=1) / 2
        for v, p in enumerate(student):
            if v != i:
                loss -= (q * np.log(p)).sum(axis=1) / 6
    np.testing.assert_allclose(values["loss"], loss, rtol=1e-4)
    np.testing.assert_allclose(values["teacher_entropy"], entropy, rtol=1e-4)
    kl = loss - entropy
    np.testing.assert_allclose(values["teacher_kl"], kl, rtol=1e-3, atol=1e-5)
    of_all = teacher[0].mean(axis=0)
    of_each = -(teacher[0] * np.log(teacher[0])).sum(axis=1).mean()
    information = -(of_all * np.log(of_all)).sum() - of_each
    assert float(values["image_information"]) == pytest.approx(information, rel=1e-3)
    mean = np.concatenate(logits).mean(axis=0)
    np.testing.assert_allclose(values["mean_logits"], mean, rtol=1e-4, atol=1e-6)


def test_centre_and_teacher_move_after_the_update():
    method = make(center_momentum=0.7, momentum=0.8, total_steps=4)
    views = batch_of(*crops())
    for step in range(3):
        center = np.array(method.center, np.float64)
        values = method.image_losses(views, training=True)
        teachers = [np.array(v) for v in method.target.trainable_variables]
        method.train_step(views)
        expected = 0.7 * center + 0.3 * values["mean_logits"].numpy()
        np.testing.assert_allclose(method.center, expected, rtol=1e-5, atol=1e-7)
        momentum = 1 - 0.2 * (math.cos(math.pi * step / 4) + 1) / 2
        online = [
            *method.encoder.trainable_variables,
            *method.projector.trainable_variables,
            *method.outputs_layer.trainable_variables,
        ]
        for old, new, student in zip(
            teachers, method.target.trainable_variables, online, strict=True
        ):
            moved = momentum * old + (1 - momentum) * student.numpy()
            np.testing.assert_allclose(new, moved, rtol=1e-5, atol=1e-7)


def test_the_last_layer_is_frozen_for_its_epochs_whatever_the_optimizer():
    optimizer = keras.optimizers.AdamW(0.01, weight_decay=0.5)
    method = make(optimizer=optimizer, freeze_epochs=1.5, steps_per_epoch=2)
    assert method.freeze_steps == 3
    (directions,) = method.outputs_layer.trainable_variables
    for step in range(5):
        before, kernel = (
            v.numpy() for v in (directions, method.encoder.trainable_variables[0])
        )
        method.train_step(batch_of(*crops(seed=step)))
        if step < 3:
            np.testing.assert_array_equal(before, directions)
        else:
            # The first step that counts is no larger than Adam's others.
            moved = np.abs(directions - before).max()
            assert 1e-4 < moved < 0.03
        assert np.abs(kernel - method.encoder.trainable_variables[0]).max() > 0


def test_scales_are_learned_only_if_the_last_layer_is_not_normalized():
    assert len(make().outputs_layer.trainable_variables) == 1
    method = make(norm_last_layer=False)
    scales = method.outputs_layer.trainable_variables[1]
    np.testing.assert_array_equal(scales, np.ones(5))
    method.train_step(batch_of(*crops()))
    assert np.abs(scales - 1).max() > 1e-5


def test_the_teachers_temperature_rises_by_epochs():
    method = make(
        teacher_temperature_start=0.04,
        teacher_temperature=0.07,
        teacher_warmup_epochs=4,
        steps_per_epoch=3,
    )
    found = []
    for step in range(0, 18, 3):
        for of_epoch in (step, step + 2):
            method.step.assign(of_epoch)
            found.append(float(method.teacher_temperature_now()))
    expected = [*np.linspace(0.04, 0.07, 4), 0.07, 0.07]  # As in the authors' code.
    np.testing.assert_allclose(found, np.repeat(expected, 2), rtol=1e-6)
    assert float(make().teacher_temperature_now()) == pytest.approx(0.1)


def vit(**arguments):
    return models.ViT(
        8, depth=2, heads=2, patch=4, input_shape=(None, None, 3), position_side=16,
        **arguments,
    )  # fmt: skip


def test_one_transformer_takes_crops_of_several_sizes():
    """Positions of 4 x 4 patches, interpolated for 2 x 2, and learned by both."""
    method = make(vit())
    views = [np.random.default_rng(i).uniform(size=(3, s, s, 3)) for i, s in
             enumerate((16, 16, 8))]  # fmt: skip
    views = [view.astype("float32") for view in views]
    values = method.image_losses(batch_of(*views), training=True)
    networks = method.encoder, method.projector, method.outputs_layer
    p = [softmax(outputs(networks, view) / 0.2) for view in views]
    q = [softmax(outputs(networks, view) / 0.1) for view in views[:2]]
    pairs = [(q[0], p[1]), (q[1], p[0]), (q[0], p[2]), (q[1], p[2])]
    loss = -sum((a * np.log(b)).sum(axis=1) for a, b in pairs) / 4
    np.testing.assert_allclose(values["loss"], loss, rtol=1e-4)
    with pytest.raises(ValueError, match="10 x 10 pixels .* patches of 4 pixels"):
        views[2] = np.zeros((3, 10, 10, 3), np.float32)
        method.image_losses(batch_of(*views), training=True)


def test_stochastic_depth_is_the_students_alone():
    method = make(vit(drop_path=0.5))
    images = np.random.default_rng(0).uniform(size=(8, 8, 8, 3)).astype("float32")
    student = [method.encoder(images, training=True).numpy() for _ in range(2)]
    assert np.abs(student[0] - student[1]).max() > 1e-3
    teacher = [method.target(images, training=True).numpy() for _ in range(2)]
    np.testing.assert_array_equal(*teacher)
    np.testing.assert_allclose(teacher[0], method.target(images), atol=1e-6)
    # What leaves the training may be fine-tuned with the rate that was asked for.
    left, _ = method.product()
    again = models.ViT.from_config(left.get_config())
    kinds = [x for x in internals.layers_of(again) if isinstance(x, dropout.Dropout)]
    assert max(layer.rate for layer in kinds) == 0.5


def test_the_teacher_is_what_leaves_the_training():
    method = make(momentum=0.5)
    for seed in range(2):
        method.train_step(batch_of(*crops(seed=seed)))
    network, head = method.product()
    images = two_views()[0]
    assert np.abs(network(images) - method.encoder(images)).max() > 1e-6
    teacher = method.target.networks
    np.testing.assert_array_equal(network(images), teacher[0](images))
    np.testing.assert_array_equal(head(network(images)), teacher[1](teacher[0](images)))


def collapsed(method, kind):
    """Gives all images one output, while the bottleneck still tells them apart."""
    (directions,) = method.outputs_layer.trainable_variables
    if kind == "uniform":  # All directions are one: all outputs are equal.
        directions.assign(np.repeat(directions.numpy()[:1], 5, axis=0))
    else:
        method.center.assign(-9.0 * np.eye(5)[2])
    method.target.reset()


@pytest.mark.parametrize("kind", ["uniform", "constant"])
def test_both_collapses_raise_the_alarm_though_embeddings_are_spread(kind):
    colours = np.random.default_rng(0).uniform(-1, 1, size=(64, 1, 1, 3))
    images = np.broadcast_to(colours, (64, 8, 8, 3)).astype("float32")
    batch = batch_of(images[:32], images[32:])
    data = tf.data.Dataset.from_tensors(batch)

    def watched(method, **arguments):
        monitor = monitors.Collapse(images, after_steps=1, **arguments)
        method.optimizer.learning_rate = 0.0
        method.fit(data, verbose=0, callbacks=[monitor])
        return monitor

    assert not watched(make()).collapsed
    method = make(center_momentum=1.0)
    collapsed(method, kind)
    spread, rank = monitors.embedding_spread(method.embed(images))
    assert spread > 0.1 and rank > 1.5
    assert watched(method).collapsed
    with pytest.raises(monitors.TrainingStopped, match=f"collapsed to {kind} ones"):
        watched(method, stop=True)


def test_what_a_run_is_told():
    method = make(
        freeze_epochs=1,
        steps_per_epoch=1251,
        teacher_warmup_epochs=30,
        teacher_temperature_start=0.04,
        teacher_temperature=0.07,
    )
    assert method.notes(1024, 1_281_167) == [
        "last layer frozen for 1,251 steps (1 epochs)",
        "teacher's temperature 0.04 to 0.07 over 30 epochs",
    ]
    assert method.chance_loss(64) == pytest.approx(math.log(5))


def test_a_batch_of_one_image_is_refused():
    with pytest.raises(ValueError, match="batch_size=1 received, but DINO tells the"):
        make().check_run(1, None)
    make().check_run(2, None)


def test_the_heads_have_the_papers_sizes():
    network = keras.Sequential([keras.Input((384,)), keras.layers.Identity()])
    method = methods.DINO(network, num_outputs=128, freeze_epochs=0)
    # 384-2048-2048-256 with biases, and directions of 256 numbers.
    expected = 385 * 2048 + 2049 * 2048 + 2049 * 256 + 128 * 256
    trained = method.learned_variables
    assert sum(int(np.prod(v.shape)) for v in trained) == expected
    of_head = {v.path.rpartition("/")[2] for v in method.projector.trainable_variables}
    assert of_head == {"kernel", "bias"}
    kernel = method.projector.trainable_variables[0].numpy()
    assert kernel.std() == pytest.approx(0.02, rel=0.01)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"temperature": 0}, "temperature=0 received"),
        ({"teacher_temperature": -1}, "teacher_temperature=-1 received"),
        ({"num_outputs": 1}, "num_outputs=1 received"),
        ({"center_momentum": 1.5}, "center_momentum=1.5 received"),
        ({"momentum": 2}, "momentum=2 received"),
        ({"teacher_warmup_epochs": 0.5}, "teacher_warmup_epochs=0.5 received"),
        ({"freeze_epochs": 1}, "freeze_epochs=1, .* without steps_per_epoch"),
        ({"teacher_warmup_epochs": 3}, "teacher_warmup_epochs=3 received without"),
        ({"teacher_temperature_start": 0.03}, "start=0.03 received with .*epochs=0"),
    ],
)
def test_clear_errors(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(one_convolution(), **arguments)


def test_recipes_that_do_not_fit_are_refused():
    for name in ("dino", "dino_resnet", "dino_cifar10", "dino_digits", "simclr"):
        methods.DINO.check_recipe(recipes.get(name))
    with pytest.raises(ValueError, match=r"1 view\(s\) received, .* takes 2 or more"):
        methods.DINO.check_recipe(recipes.get("deepcluster"))
    large, *_, small = dino_recipes.DINO
    for views in ([large, small], [small, small, large], [small, large]):
        with pytest.raises(ValueError, match="must be of one size, and none larger"):
            methods.DINO.check_recipe(recipes.get(views))
