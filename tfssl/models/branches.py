"""One encoder per group of an image's channels, as one encoder."""

import contextlib
import inspect

import keras
from keras import layers, ops

from tfssl import checks
from tfssl.models import composed, freezing, lab, normals

# What stands in front of the branches, and the views of the first three channels.
_COLORS = {
    "lab": (lab.Lab, {"L": (0,), "ab": (1, 2)}),
    "ycbcr": (lab.YCbCr, {"Y": (0,), "CbCr": (1, 2)}),
    "rgb": (None, None),
}
_HALF = 0.5


@keras.saving.register_keras_serializable(package="tfssl")
class Channels(layers.Layer):
    """Some entries of the last axis, in the given order. It has no variables.

    Args:
        indices: ints >= 0.
        dtype: dtype policy of the layer.
        **kwargs: of `keras.layers.Layer`.
    """

    def __init__(self, indices, *, dtype="float32", **kwargs):
        # As they come: half precision is for what follows.
        super().__init__(dtype=dtype, autocast=False, **kwargs)
        self.indices = tuple(indices)

    def call(self, inputs):
        first, count = self.indices[0], len(self.indices)
        if self.indices == tuple(range(first, first + count)):
            return inputs[..., first : first + count]
        return ops.take(inputs, self.indices, axis=-1)

    def compute_output_spec(self, inputs):
        shape = (*inputs.shape[:-1], len(self.indices))
        return keras.KerasTensor(shape, inputs.dtype)

    def get_config(self):
        return {**super().get_config(), "indices": list(self.indices)}


@keras.saving.register_keras_serializable(package="tfssl")
class Branches(keras.Model):
    """Views of an image by an encoder each: images -> all their features, joined.

    A view is a group of channels: L and ab of a colour image behind `models.Lab`,
    depth, surface normals, maps of classes. `models.encoder("branches", …)` builds one
    by names. A Keras model `(batch, height, width, channels)` -> float32 `(batch, sum
    of the encoders' dims)`, in the order of the views.

    Args:
        encoders: dict, from the name of a view to its encoder, a functional Keras model
            `(batch, height, width, channels of the group)` -> `(batch, dim)`.
        channels: dict with the same names, to the channels of the group, ints from 0,
            as they are behind `front`.
        input_shape: `(height, width, channels)` of the images.
        front: layers without variables that all images pass first, as `models.Lab`.
        name: name of the model. `None`: `"branches"`.
        trainable: as in Keras.

    Attributes:
        branches: the encoders by view, in order.
        channels: as given, tuples of ints.
        stage_outputs: dict of Keras tensors, the feature maps of the stages that all
            encoders have and whose sizes agree, their channels joined in the order of
            the views.

    Raises:
        ValueError: for groups and encoders that do not fit.

    Reference:
        Tian et al., 2019, https://arxiv.org/abs/1906.05849 (CMC): an encoder per view
        without shared weights; features, and maps of a stage, are joined for use.
    """

    def __init__(
        self, encoders, channels, *, input_shape, front=(), name=None, trainable=True
    ):
        images = keras.Input(tuple(input_shape), name="images")
        x = images
        for layer in front:
            x = layer(x)
        channels = {name: tuple(group) for name, group in channels.items()}
        _check(encoders, channels, x.shape[-1])
        pickers, maps, features = {}, {}, []
        for view, network in encoders.items():
            pickers[view] = Channels(channels[view], name=f"{view}_channels")
            found, last = _chained(network, pickers[view](x), view)
            maps[view] = found
            features.append(last)
        joined = features[0]
        if len(features) > 1:
            joined = _join(features[0].dtype, "features")(features)
        super().__init__(inputs=images, outputs=joined, name=name or "branches")
        self.front = list(front)
        self.branches = dict(encoders)
        self.channels = channels
        self.pickers = pickers
        self.stage_outputs = _joined(list(maps.values()))
        self.dtype_policy = next(iter(encoders.values())).dtype_policy
        freezing.begin(self, trainable)

    def in_front(self, images):
        """Images -> what stands in front makes of them, with all its channels."""
        for layer in self.front:
            images = layer(images)
        return images

    def split(self, images):
        """Images -> a dict from the name of a view to its channels, behind `front`."""
        return self.picked(self.in_front(ops.convert_to_tensor(images)))

    def picked(self, channels):
        """As `split`, of images that are behind `front` already."""
        return {view: pick(channels) for view, pick in self.pickers.items()}

    def call(self, inputs, training=None, mask=None):
        """The features of all views, joined: every encoder by its own call."""
        features = [
            self.branches[view](channels, training=training)
            for view, channels in self.split(inputs).items()
        ]
        return ops.concatenate(features, axis=-1)

    def part(self, views):
        """An encoder of these views alone, which shares their layers.

        Args:
            views: names. The images stay those of the whole, with all channels.

        Raises:
            ValueError: for a view that is not there.
        """
        for view in views:
            self.check_view(view, "views")
        return Branches(
            {view: self.branches[view] for view in views},
            {view: self.channels[view] for view in views},
            input_shape=self.input_shape[1:],
            front=self.front,
            name=f"{self.name}_{'_'.join(views)}",
        )

    def check_view(self, view, argument):
        """Raises `ValueError`, naming the argument, for a view that is not there."""
        if view not in self.branches:
            raise ValueError(
                f"{argument}={view!r} received, but the views of the encoder "
                f"{self.name!r} are {', '.join(self.branches)}."
            )

    def get_config(self):
        """Every constructor argument."""
        serialized = keras.saving.serialize_keras_object
        return {
            # Lists of pairs: the order of the views is that of the features.
            "encoders": [[v, serialized(e)] for v, e in self.branches.items()],
            "channels": [[v, list(group)] for v, group in self.channels.items()],
            "input_shape": list(self.input_shape[1:]),
            "front": [serialized(layer) for layer in self.front],
            "name": self.name,
            "trainable": self.trainable,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Builds the encoder that `get_config` describes."""

        def made(part, view=None):
            # Paths of variables that tell views apart.
            with keras.name_scope(view) if view else contextlib.nullcontext():
                return keras.saving.deserialize_keras_object(
                    part, custom_objects=custom_objects
                )

        parts = {
            "encoders": {view: made(part, view) for view, part in config["encoders"]},
            "channels": dict(config["channels"]),
            "front": [made(part) for part in config["front"]],
        }
        return cls(**config | parts)


def builder(encoders):
    """A function that builds `Branches` of an encoder by its name.

    Args:
        encoders: dict of name to builder.
    """

    def build(
        *,
        input_shape,
        of="resnet18",
        color="lab",
        views=None,
        depth_channel=None,
        name=None,
        **more,
    ):
        """One encoder per view of an image.

        Args:
            input_shape: `(height, width, channels)` of the images.
            of: name of the encoder that every view has one of.
            color: what is made of the first three channels, red, green and blue:
                `"lab"`, `"ycbcr"`, or `"rgb"` for images as they are.
            views: dict from the name of a view to its channels, behind that change:
                `{"L": (0,), "ab": (1, 2), "depth": (3,)}`. None takes brightness and
                colour of `"lab"` (L, ab) or `"ycbcr"` (Y, CbCr).
            depth_channel: the channel that is depth, as `models.Normals` takes it: its
                surface normals are then three more channels, behind all of the image's.
            name: name of the model.
            **more: arguments of that encoder, as `stem="cifar"`. `width` is 0.5 unless
                given, where there is one, as in CMC: two branches are then about as
                large as one network.

        Raises:
            ValueError: for unknown names, views that the images do not have, and images
                without colour where there is to be some.
        """
        checks.one_of({"color": color}, "color", tuple(_COLORS))
        composed.check(encoders, of, more)
        if "width" in inspect.signature(encoders[of]).parameters:
            more = {"width": _HALF} | more
        kind, usual = _COLORS[color]
        front = [] if kind is None else [kind(name="colors")]
        if depth_channel is not None:
            front.append(normals.Normals(depth_channel, name="normals"))
        groups = _groups(usual if views is None else views, color)
        images = keras.Input(input_shape)
        for layer in front:
            images = layer(images)
        for view, group in groups.items():
            check_group(view, group, images.shape[-1])
        networks = {}
        for view, group in groups.items():
            shape = (*input_shape[:2], len(group))
            with keras.name_scope(view):  # Paths of variables that tell views apart.
                networks[view] = encoders[of](
                    input_shape=shape, **more | {"name": f"{view}_{of}"}
                )
        return Branches(
            networks, groups, input_shape=input_shape, front=front, name=name
        )

    return composed.with_arguments_of(encoders, build)


def _groups(views, color):
    if not isinstance(views, dict) or not views:
        raise ValueError(
            f"views={views!r} received with color={color!r}, expected a dict from the "
            "name of a view to its channels, as {'L': (0,), 'depth': (3,)}."
        )
    return {
        view: tuple(group) if isinstance(group, list | tuple) else (group,)
        for view, group in views.items()
    }


def of_views(method, encoder, least=1):
    """The encoder of a method, which must have branches.

    Args:
        method: what asks for it, for the message.
        encoder: a Keras model.
        least: int, how many views are needed.

    Raises:
        ValueError: for any other encoder, or fewer views.
    """
    if not isinstance(encoder, Branches):
        raise ValueError(
            f"{method} needs an encoder with a branch per view, but {encoder.name!r} "
            f"({type(encoder).__name__}) has none; take --encoder=branches, or "
            "tfssl.models.Branches."
        )
    if len(encoder.branches) < least:
        raise ValueError(
            f"{method} compares {least} views or more, but the encoder "
            f"{encoder.name!r} has only {', '.join(encoder.branches)}; give it more."
        )
    return encoder


def _check(encoders, channels, count):
    if not encoders or list(encoders) != list(channels):
        raise ValueError(
            f"Encoders of the views {list(encoders)} and channels of the views "
            f"{list(channels)} received, expected the same ones, at least one."
        )
    for view, group in channels.items():
        check_group(view, group, count)
        network = encoders[view]
        shape = getattr(network, "input_shape", None)
        if not getattr(network, "inputs", None) or len(network.output_shape) != 2:
            raise ValueError(
                f"The encoder of the view {view!r} is {network!r}, expected a Keras "
                "model of layers, images -> features (batch, dim)."
            )
        if shape[-1] != len(group):
            raise ValueError(
                f"The encoder of the view {view!r} takes {shape[-1]} channel(s), but "
                f"its group {group} has {len(group)}; build it with input_shape=(height"
                f", width, {len(group)})."
            )


def check_group(view, group, count):
    """Raises `ValueError` unless a view is some of `count` channels, and has a name."""
    if not isinstance(view, str) or not view.isidentifier():
        raise ValueError(
            f"A view of the name {view!r} received, expected a word of letters, digits "
            "and _."
        )
    if not group or not all(
        isinstance(i, int) and not isinstance(i, bool) and 0 <= i < count for i in group
    ):
        raise ValueError(
            f"The view {view!r} was given the channels {tuple(group)!r}, but the "
            f"images have channels 0 to {count - 1}; give some of these, or images "
            "with more."
        )


def _chained(network, x, view):
    """`({stage: map}, features)` of a network in the graph of the whole.

    A model per stage, whose names do not meet those of another view's. Of a network
    whose stages do not follow from each other, as a transformer's, none are shown.
    """
    start, maps = network.inputs[0], {}
    stages = getattr(network, "stage_outputs", {})
    if not _follow(network, stages.values()):
        return {}, network(x)
    for stage, end in stages.items():
        # The network may be built for one size; its layers up to here are not.
        part = keras.models.clone_model(
            keras.Model(start, end),
            input_tensors=keras.Input((None, None, start.shape[-1]), dtype=start.dtype),
            clone_function=lambda layer: layer,
        )
        part.name = f"{view}_{stage}"
        x = maps[stage] = part(x)
        start = end
    part = keras.Model(start, network.outputs[0], name=f"{view}_features")
    return maps, part(x)


def _follow(network, stages):
    """Whether every stage is made of the one before, and the features of the last."""
    ends = [network.inputs[0], *stages, network.outputs[0]]
    try:
        for start, end in zip(ends, ends[1:]):
            keras.Model(start, end)
    except ValueError:
        return False
    return True


def _joined(maps):
    """The stages that all views have in one size, a dict of name to joined map."""
    found = {}
    for stage, first in maps[0].items():
        each = [of_view.get(stage) for of_view in maps]
        sizes = {None if x is None else tuple(x.shape[1:3]) for x in each}
        if len(sizes) == 1 and None not in sizes:
            found[stage] = first
            if len(each) > 1:
                found[stage] = _join(first.dtype, stage)(each)
    return found


def _join(dtype, name):
    return layers.Concatenate(dtype=dtype, name=name)
