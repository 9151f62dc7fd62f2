import numpy as np
import pytest
import tensorflow as tf

from tests.methods.case_table import BATCH, IMAGES
from tests.methods.cases import assert_close, batches, make, one_convolution, state
from tfssl import data, methods


def batch(name="simclr", **changed):
    made = next(iter(batches(name, 1).batch(BATCH)))
    return {
        key: value for key, value in {**made, **changed}.items() if value is not None
    }


@pytest.mark.parametrize(
    "arguments", [{}, {"run_eagerly": True}, {"jit_compile": True}]
)
@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda b: (b["views"], b["index"]), "SimCLR received a batch that is a tuple"),
        (
            lambda b: (b, b["index"]),
            "batch that is a tuple, but takes a dict .*multivi",
        ),
        (
            lambda b: {**b, "views": tuple(b["views"].values())},
            "views that are a tuple",
        ),
        (
            lambda b: {**b, "views": {"a": b["views"]["view_0"]}},
            "views with the names '",
        ),
        (lambda b: {"views": b["views"]}, "without 'index' and 'position', but takes"),
        (
            lambda b: {**b, "index": tf.cast(b["index"], tf.float32)},
            "'index' is float32",
        ),
        (lambda b: {**b, "position": b["position"][0]}, r"is int64 of shape \(\), but"),
        (
            lambda b: {
                **b,
                "views": {k: tf.cast(v, "uint8") for k, v in b["views"].items()},
            },
            "received a view_0 of uint8, but takes a dict",
        ),
    ],
)
def test_other_structures_are_refused_in_one_sentence(change, sentence, arguments):
    method = make("simclr", **arguments)
    stream = tf.data.Dataset.from_tensors(change(batch()))
    for run in (method.fit, method.evaluate):
        with pytest.raises(ValueError, match=sentence):
            run(stream, verbose=0)


def test_several_replicas_and_labels(mirrored):
    with mirrored(2).scope():
        method = make("simclr")
    stream = tf.data.Dataset.from_tensor_slices(batch(position=None)).batch(BATCH)
    with pytest.raises(ValueError, match="a batch without 'position', but takes"):
        method.fit(stream, verbose=0)
    stream = tf.data.Dataset.from_tensors(batch("distillation", label=None))
    with pytest.raises(ValueError, match="a batch without 'label', but .*\"label\": "):
        make("distillation").fit(stream, verbose=0)


@pytest.mark.parametrize(
    "name",
    [
        "npid_nce",
        pytest.param("cpc", marks=pytest.mark.slow),
        pytest.param("deepcluster_v2", marks=pytest.mark.slow),
    ],
)
def test_other_precisions_are_taken(name):
    def other(batch):
        views = {key: tf.cast(v, tf.float64) for key, v in batch["views"].items()}
        numbers = {k: tf.cast(batch[k], tf.int32) for k in ("index", "position")}
        return {**batch, "views": views, **numbers}

    stream = batches(name, 1).batch(BATCH)
    one, same = make(name), make(name)
    one.fit(stream, verbose=0)
    same.fit(stream.map(other), verbose=0)
    assert_close(state(one), state(same))
    assert np.isfinite(one.evaluate(stream.map(other), verbose=0)).all()


@pytest.mark.parametrize(
    "build, enough",
    [
        (lambda **queue: methods.SimCLR(one_convolution(), **queue), 20),
        (lambda: methods.MoCo(one_convolution(), version=3), None),
        (lambda: methods.BYOL(one_convolution()), None),
        (lambda **queue: methods.SwAV(one_convolution(), num_prototypes=4,
         freeze_epochs=0, queue_epoch=0, **queue), 20),
    ],
)  # fmt: skip
def test_one_image_a_step_is_refused_where_there_is_nothing_beside_it(build, enough):
    source = data.open_source(np.zeros((30, 1, 1, 1), np.uint8))
    method = build(queue_size=0) if enough else build()
    with pytest.raises(ValueError, match="batch_size=1 received, but .* give 2 or mor"):
        method.check_run(1, source)
    method.check_run(2, source)
    if enough:
        build(queue_size=enough).check_run(1, source)


@pytest.mark.parametrize(
    "arguments",
    [{}, {"jit_compile": True}, {"steps_per_execution": 2}, {"run_eagerly": True}],
)
@pytest.mark.parametrize("name", ["npid_nce", "deepcluster"])
def test_images_that_a_method_does_not_have_are_refused(name, arguments):
    method = make(name, **arguments)
    steps = IMAGES // BATCH + 1
    stream = batches(name, steps).batch(BATCH)
    before = state(method)
    for wrong in (stream, stream.map(lambda b: {**b, "index": -1 - b["index"]})):
        last = wrong.skip(steps - 1).repeat(2)
        for run in (method.fit, method.evaluate):
            with pytest.raises(
                tf.errors.InvalidArgumentError, match=f"has num_images={IMAGES}, but a"
            ):
                run(last, verbose=0)
    assert_close(before, state(method), tolerance=0)
    method.fit(stream.take(steps - 1), verbose=0)
    assert int(method.step.numpy()) == steps - 1


def test_images_that_a_method_does_not_have_are_refused_before_distribution(mirrored):
    with mirrored(2).scope():
        method = make("npid_nce")
    steps = IMAGES // BATCH + 1
    stream = batches("npid_nce", steps).batch(BATCH)
    before = state(method)
    for run in (method.fit, method.evaluate):
        with pytest.raises(
            tf.errors.InvalidArgumentError, match=f"has num_images={IMAGES}, but a"
        ):
            run(stream.skip(steps - 1), verbose=0)
    assert_close(before, state(method), tolerance=0)
    method.fit(stream.take(2), verbose=0)
    assert int(method.step.numpy()) == 2


def test_a_source_of_more_images_is_refused_before_a_run():
    method = make("npid_nce")
    source = data.open_source(np.zeros((IMAGES + 1, 1, 1, 1), np.uint8))
    told = rf"num_images={IMAGES} received, but .* has {IMAGES + 1} images; give NPID "
    with pytest.raises(ValueError, match=told):
        method.check_source(source)
    make("simclr").check_source(source)
    without_banks = make("cmc")
    without_banks.num_images = 1
    without_banks.check_source(source)


def test_fit_warns_of_no_shuffling(recwarn):
    method = make("simclr")
    method.compile("sgd")
    method.fit(batches("simclr", 1).batch(BATCH), verbose=0)
    assert not [w for w in recwarn if "shuffle" in str(w.message)]
