import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures.small_resnets import images, tiny
from tfssl import models


class _NumpyResNet:
    """The network in NumPy float64, written from the papers' figures."""

    def __init__(self, model, padding, selective=False):
        self.values = {v.path: v.numpy().astype(np.float64) for v in model.variables}
        self.padding = padding
        self.selective = selective

    def padded(self, x, size, stride, value):
        sides = []
        for length in x.shape[1:3]:
            if self.padding == "fixed" or stride == 1:
                total = size - 1
            else:  # SAME: as much as the last window needs, the odd one behind.
                total = max((-(-length // stride) - 1) * stride + size - length, 0)
            sides.append((total // 2, total - total // 2))
        return np.pad(x, [(0, 0), *sides, (0, 0)], constant_values=value)

    def windows(self, x, size, stride, value):
        """`(size * size)` shifted and strided copies of the padded image."""
        x = self.padded(x, size, stride, value)
        for i in range(size):
            for j in range(size):
                rows = x[:, i : x.shape[1] - size + 1 + i : stride]
                yield i, j, rows[:, :, j : x.shape[2] - size + 1 + j : stride]

    def conv_norm(self, x, name, stride):
        kernel = self.values[f"{name}_conv/kernel"]
        x = sum(w @ kernel[i, j] for i, j, w in self.windows(x, len(kernel), stride, 0))
        gamma, beta, mean, variance = (
            self.values[f"{name}_bn/{part}"]
            for part in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta

    def conv_relu(self, x, name, stride):
        return np.maximum(self.conv_norm(x, name, stride), 0)

    def mean_pool(self, x, stride):
        """Means of 2 x 2 pixels; beyond the image is nothing, or zeros that count."""
        zeros = self.padding == "fixed" and stride == 2
        return np.nanmean(
            [w for _, _, w in self.windows(x, 2, stride, 0 if zeros else np.nan)],
            axis=0,
        )

    def mixed_streams(self, x, name, stride):
        """Two convolutions, and by image and channel the softmax of their scores."""
        both = self.conv_relu(x, name, stride)
        filters = both.shape[-1] // 2
        first, second = both[..., :filters], both[..., filters:]
        pooled = (first + second).mean((1, 2), keepdims=True)
        mixers = self.conv_relu(pooled, f"{name}_mixers", 1)[:, 0, 0]
        scores = np.exp(mixers @ self.values[f"{name}_scores_conv/kernel"][0, 0])
        mixed = np.empty_like(first)
        for n in range(len(mixed)):
            for c in range(filters):
                weights = scores[n, [c, filters + c]]
                assert abs(weights[0] / weights.sum() - 0.5) > 1e-4  # No mean.
                mixed[n, ..., c] = (
                    weights[0] * first[n, ..., c] + weights[1] * second[n, ..., c]
                ) / weights.sum()
        return mixed

    def __call__(self, x, blocks, convs, stem):
        x = x.astype(np.float64)
        if stem == "imagenet" and self.selective:
            x = self.conv_relu(x, "conv1_1", 2)
            x = self.conv_relu(x, "conv1_2", 1)
            x = self.conv_relu(x, "conv1_3", 1)
        else:
            x = self.conv_relu(x, "conv1", 1 if stem == "cifar" else 2)
        if stem == "imagenet":
            x = np.max([w for _, _, w in self.windows(x, 3, 2, -np.inf)], axis=0)
        strided = 1 if convs == 2 else 2  # The convolution that has the stride.
        for stage, count in enumerate(blocks):
            for block in range(count):
                name = f"stack{stage}_block{block}"
                stride = 2 if stage > 0 and block == 0 else 1
                shortcut, branch = x, x
                if f"{name}_0_conv/kernel" in self.values:
                    step = stride
                    if self.selective:
                        shortcut, step = self.mean_pool(x, stride), 1
                    shortcut = self.conv_norm(shortcut, f"{name}_0", step)
                for i in range(1, convs):
                    part, step = f"{name}_{i}", stride if i == strided else 1
                    if self.selective and i == strided:
                        branch = self.mixed_streams(branch, part, step)
                    else:
                        branch = self.conv_relu(branch, part, step)
                branch = self.conv_norm(branch, f"{name}_{convs}", 1)
                x = np.maximum(shortcut + branch, 0)
        return x.mean((1, 2))


@pytest.mark.parametrize(
    "depth, stem, padding, projection, selective, size",
    [
        (18, "imagenet", "fixed", True, False, (32, 46)),
        (18, "imagenet", "same", True, False, (32, 46)),
        (18, "imagenet", "same", False, False, (37, 33)),
        (34, "cifar", "fixed", False, False, (16, 15)),
        (50, "imagenet", "fixed", True, False, (64, 33)),
        (50, "cifar", "same", True, False, (16, 15)),
        (18, "imagenet", "same", True, True, (37, 33)),
        (18, "cifar", "fixed", False, True, (16, 15)),
        (50, "imagenet", "fixed", True, True, (64, 33)),
        (50, "cifar", "same", True, True, (16, 15)),
    ],
)
def test_forward_matches_numpy(depth, stem, padding, projection, selective, size):
    model = tiny(
        depth,
        stem=stem,
        padding=padding,
        projection_in_first_block=projection,
        selective_kernels=selective,
    )
    x = images((2, *size, 3))
    blocks = (2, 2, 2, 2) if depth == 18 else (3, 4, 6, 3)
    convs = 3 if depth == 50 else 2
    expected = _NumpyResNet(model, padding, selective)(x, blocks, convs, stem)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(model(x) / scale, expected / scale, atol=1e-5)


def test_selective_kernels_and_resnet_d_have_the_authors_shapes():
    """A bottleneck of 256 filters of google-research/simclr, `sk_ratio=0.25`."""
    with keras.StatelessScope(initialize_variables=False):
        model = models.resnet(50, selective_kernels=True, selective_ratio=0.25)
    found = {v.path.removesuffix("_conv/kernel"): v.shape for v in model.variables}
    for name, shape in {
        "conv1_1": (3, 3, 3, 32),
        "conv1_2": (3, 3, 32, 32),
        "conv1_3": (3, 3, 32, 64),
        "stack0_block0_0": (1, 1, 64, 256),
        "stack0_block0_2": (3, 3, 64, 128),
        "stack0_block0_2_mixers": (1, 1, 64, 32),  # 64 * 0.25 is below 32.
        "stack2_block0_1": (1, 1, 512, 256),
        "stack2_block0_2": (3, 3, 256, 512),
        "stack2_block0_2_mixers": (1, 1, 256, 64),
        "stack2_block0_2_scores": (1, 1, 64, 512),
        "stack2_block0_3": (1, 1, 256, 1024),
    }.items():
        assert found[name] == shape, name
    strides = {
        layer.name.removesuffix("_conv"): layer.strides[0]
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D)
    }
    assert {name for name, stride in strides.items() if stride == 2} == {
        "conv1_1", "stack1_block0_2", "stack2_block0_2", "stack3_block0_2",
    }  # fmt: skip
    pools = [x for x in model.layers if isinstance(x, keras.layers.AveragePooling2D)]
    assert [(x.pool_size, x.strides, x.padding) for x in pools] == [
        ((2, 2), (1, 1), "same"),
        *[((2, 2), (2, 2), "valid")] * 3,
    ]


@pytest.mark.parametrize("depth", [18, 50])
def test_every_start_of_a_selective_branch_is_the_authors(depth):
    """Zero at the end of a branch, and nowhere inside of the mixing."""
    model = models.resnet(depth, width=1 / 16, selective_kernels=True)
    last = "_2_bn/gamma" if depth == 18 else "_3_bn/gamma"
    for variable in model.trainable_variables:
        if variable.path.endswith("gamma"):
            end = variable.path.startswith("stack") and variable.path.endswith(last)
            assert (variable.numpy() == (0 if end else 1)).all(), variable.path


def test_split_statistics_reach_the_mixing():
    """Two groups of a batch are two batches, the pooled streams' norm included."""
    kwargs = dict(stem="cifar", selective_kernels=True)
    groups = tiny(norm_statistics="split", norm_group_size=3, **kwargs)
    alone = tiny(**kwargs)
    x = images((6, 8, 8, 3))
    found = groups(x, training=True)
    parts = [alone(x[:3], training=True), alone(x[3:], training=True)]
    np.testing.assert_allclose(found, np.concatenate(parts), rtol=1e-4, atol=1e-4)
    assert np.abs(found - alone(x, training=True)).max() > 0.1


def test_global_statistics_reach_the_mixing(mirrored):
    """Two replicas with half of a batch each are one with all of it."""
    kwargs = dict(stem="cifar", selective_kernels=True)
    x = images((8, 8, 8, 3))
    one = tiny(**kwargs)
    expected = one(x, training=True)
    strategy = mirrored(2)
    with strategy.scope():
        both = tiny(norm_statistics="global", **kwargs)
    parts = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(x[4 * context.replica_id_in_sync_group :][:4])
    )
    step = tf.function(
        lambda parts: strategy.run(lambda x: both(x, training=True), args=(parts,))
    )
    found = np.concatenate(strategy.experimental_local_results(step(parts)))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(both.get_weights(), one.get_weights()):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_odd_batches_have_gradients_in_narrow_networks():
    """oneDNN's of a 1x1 kernel with strides ends the process, of few channels."""
    model = tiny(18, width=1 / 16, stem="cifar")
    strided = {
        layer.input.shape[-1]
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D)
        and (layer.kernel_size, layer.strides) == ((1, 1), (2, 2))
    }
    assert strided == {16}  # The shortcuts from 4 and 8 channels take places first.
    x = tf.constant(images((3, 24, 24, 3)))
    for _ in range(3):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(x, training=True) ** 2)
        gradients = tape.gradient(loss, model.trainable_variables)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
