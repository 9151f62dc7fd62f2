"""tf.data services: what a training gets of real ones, on free ports."""

import signal
import time

import numpy as np
import pytest
import tensorflow as tf

from tests import processes
from tests.fixtures import batches as made
from tests.fixtures import services
from tfssl import data
from tfssl.data import bad_files, pipeline, service
from tfssl.data.views import recipes
from tfssl.tasks import data_service, make_tfrecords

RECIPE = made.recipe()
BATCH = 6


@pytest.fixture(scope="module")
def addresses():
    """Of two services of one worker each."""
    found = [services.serving() for _ in range(2)]
    yield [address for address, _ in found]
    for _, worker in found:
        worker.send_signal(signal.SIGTERM)
        worker.wait()


def pixels(n=20):
    rng = np.random.default_rng(0)
    return rng.integers(0, 255, (n, 10, 10, 3)).astype(np.uint8)


def batches(source, count, recipe=RECIPE, **options):
    dataset = data.multiview(source, recipe, batch_size=BATCH, seed=3, **options)
    return [
        tf.nest.map_structure(lambda x: x.numpy(), batch)
        for batch in dataset.take(count)
    ]


def assert_same(a, b):
    for expected, found in zip(a, b, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, expected, found)


@pytest.mark.parametrize(
    "count, start, shard", [(1, 15, (0, 1)), (2, 15, (0, 1)), (2, 12, (1, 2))]
)
def test_batches_are_those_of_a_local_pipeline(addresses, count, start, shard):
    """Also from the middle of a batch, and the rows of one worker of two."""
    source = data.open_source(pixels())
    options = dict(start=start, shard=shard)
    expected = batches(source, 7, **options)  # Three batches are an epoch.
    chosen = ",".join(addresses[:count])
    assert_same(expected, batches(source, 7, data_service=chosen, **options))


def test_what_is_left_to_the_device_travels_in_whole_numbers(addresses):
    source = data.open_source(pixels())
    chosen = dict(recipe=recipes.SIMCLR.scaled(8), augment_on="device")
    found = batches(source, 4, data_service=addresses[0], **chosen)
    assert_same(batches(source, 4, **chosen), found)
    assert found[0]["views"]["view_1"].dtype == np.uint8


def test_sequential_sources_keep_their_order(addresses):
    source = data.open_source(tf.data.Dataset.from_tensor_slices(pixels()))
    expected = batches(source, 7, start=6)
    chosen = ",".join(addresses)
    assert_same(expected, batches(source, 7, start=6, data_service=chosen))


def test_unreadable_files_are_named_on_this_side(addresses, tmp_path):
    for i, image in enumerate(pixels()):
        (tmp_path / f"{i:02d}.png").write_bytes(tf.io.encode_png(image).numpy())
    bad = tmp_path / "07.png"
    bad.write_bytes(bad.read_bytes()[:40])
    source = data.open_source(str(tmp_path))

    def met(**options):
        bad_files = pipeline.BadFiles(max_fraction=0.1)
        return batches(source, 6, bad_files=bad_files, **options), bad_files.files

    expected, files = met()
    found, found_files = met(data_service=addresses[0])
    assert_same(expected, found)
    assert files == found_files == [str(bad)]
    # Dealt to two, other rows may move up, but no image comes twice in an epoch.
    found, found_files = met(data_service=",".join(addresses))
    assert found_files == [str(bad)]
    first = np.concatenate([batch["position"] for batch in found[:3]])
    assert len(set(first)) == len(first) == 18


_OTHER_FORMS = ("list.csv", "tfrecord:records/all.json")


@pytest.mark.parametrize(
    "form",
    [
        "photos",
        *(pytest.param(form, marks=pytest.mark.slow) for form in _OTHER_FORMS),
    ],
)
def test_a_relative_path_is_that_of_this_process(
    addresses, tmp_path, monkeypatch, form
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for i, image in enumerate(pixels(6)):
        file = tmp_path / "photos" / f"{i}.png"
        file.write_bytes(tf.io.encode_png(image).numpy())
    names = ["path", *(f"photos/{i}.png" for i in range(6))]
    (tmp_path / "list.csv").write_text("\n".join(names))
    make_tfrecords.make_tfrecords(
        "photos", "records", name="all", num_shards=1, verbose=0
    )
    source = data.open_source(form)
    strict = pipeline.BadFiles(0.0)
    found = batches(source, 1, data_service=addresses[0], bad_files=strict)
    assert_same(batches(source, 1), found)


def test_what_only_the_service_cannot_read_is_said(addresses, tmp_path, monkeypatch):
    for i, image in enumerate(pixels(12)):
        (tmp_path / f"{i:02d}.png").write_bytes(tf.io.encode_png(image).numpy())
    source = data.open_source(str(tmp_path))
    read = source.read

    def read_or_not(index):
        if tf.executing_eagerly():
            return read(index)
        file = tf.where(tf.equal(index, 7), "/nowhere.png", str(tmp_path / "01.png"))
        return tf.io.read_file(file)

    monkeypatch.setattr(source, "read", read_or_not)
    met = pipeline.BadFiles(max_fraction=0.1)
    batches(source, 3, bad_files=met, data_service=addresses[0])
    assert met.listed == [f"{tmp_path / '07.png'} ({service.NOT_THERE})"]
    met = pipeline.BadFiles(max_fraction=0.1)
    batches(source, 3, bad_files=met)
    assert met.listed == [str(tmp_path / "07.png")]


def test_a_folder_that_is_deleted_stops_the_stream(addresses, tmp_path):
    for i, image in enumerate(pixels()):
        (tmp_path / f"{i:02d}.png").write_bytes(tf.io.encode_png(image).numpy())
    source = data.open_source(str(tmp_path))
    met = pipeline.BadFiles(max_fraction=0.1)
    dataset = data.multiview(
        source, RECIPE, batch_size=BATCH, bad_files=met, data_service=addresses[0]
    )
    batches = iter(dataset)
    next(batches)
    for file in tmp_path.iterdir():
        file.unlink()
    with pytest.raises(ValueError, match="3 of 20 images .* could not be read"):
        with bad_files.explained(met), service.errors_explained():
            for _ in batches:
                pass


def test_python_does_not_leave_the_process(addresses):
    def python(image):
        image = tf.numpy_function(lambda x: x, [image], tf.uint8)
        return tf.ensure_shape(image, (10, 10, 3))

    dataset = tf.data.Dataset.from_tensor_slices(pixels()).map(python)
    source = data.open_source(dataset)
    with pytest.raises(ValueError, match="calls Python functions"):
        batches(source, 1, data_service=addresses[0])


def test_a_second_worker_of_a_dispatcher_is_noticed():
    server = data_service.start("localhost", port=0)
    config = tf.data.experimental.service.WorkerConfig(
        dispatcher_address=server.address.removeprefix("grpc://")
    )
    second = tf.data.experimental.service.WorkerServer(config)
    while server.dispatcher._num_workers() < 2:
        time.sleep(0.02)
    source = data.open_source(pixels())
    with pytest.raises(ValueError, match="dispatcher with exactly one worker"):
        with service.errors_explained():
            batches(source, 2000, data_service=server.address)
    del second


def test_two_services_at_an_address_are_noticed():
    """As `data_service.start` refuses it, but gRPC does not."""
    (port,) = processes.free_ports(1)
    made = tf.data.experimental.service
    both = [made.DispatchServer(made.DispatcherConfig(port=port)) for _ in range(2)]
    source = data.open_source(pixels())
    # Each connection goes to either: what one is given, the other may be asked for.
    with pytest.raises(ValueError, match="two services share this address"):
        for _ in range(100):
            address = f"grpc://localhost:{port}"
            data.multiview(source, RECIPE, batch_size=BATCH, data_service=address)
    del both


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("localhost:5050", "expected grpc://host:port"),
        ("grpc://localhost", "expected grpc://host:port"),
        ("grpc://a:1,", "expected grpc://host:port"),
        ("grpc://a:1,grpc://a:1", "names an address twice"),
        ("grpc://localhost:1", "No data service answers at grpc://localhost:1"),
    ],
)
def test_bad_addresses(text, sentence):
    with pytest.raises(ValueError, match=sentence):
        batches(data.open_source(pixels()), 1, data_service=text)
