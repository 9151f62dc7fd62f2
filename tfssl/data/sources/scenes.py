"""Rendered scenes with depth, surface normals and maps of classes: data for views.

A camera looks at a floor with a large body and two small ones on it, and at a wall. All
of a scene is drawn from a seed, and a ray per pixel finds what it shows, so that depth,
normals and classes are exact.

Coordinates are those of the camera: right, down, away from it. Its image is one unit
wide at distance 1 (focal length of one image width).
"""

import dataclasses

import numpy as np

from tfssl import checks
from tfssl.data.sources import arrays

KINDS = ("sphere", "box", "cylinder", "cone")
# Groups of channels, in order: a map of 0 and 1 for the floor, the wall and each kind.
CHANNELS = {
    "rgb": (0, 1, 2),
    "depth": (3,),
    "normals": (4, 5, 6),
    "labels": tuple(range(7, 9 + len(KINDS))),
}
SIZE = 32
FAR = 6.0  # Where the wall is; depth is stored as a fraction of it.
_FLOOR = 1.0  # Below the camera.
_SMALL = 2
_COUNTS = {"train": 2000, "test": 500}
_SEEDS = {"train": 0, "test": 1}
_CHUNK = 128
_TEXTURE = 0.03


@dataclasses.dataclass(frozen=True)
class Rendered:
    """Scenes as a camera sees them, float64.

    Attributes:
        rgb: `(count, size, size, 3)`, in [0, 1].
        depth: `(count, size, size)`, along the axis of the camera, up to `FAR`.
        normals: `(count, size, size, 3)` of length 1, towards the camera.
        labels: int64 `(count, size, size)`: 0 floor, 1 wall, 2 + the number of a kind.
        kinds: int64 `(count,)`, the kind of the large body, a place in `KINDS`.
    """

    rgb: np.ndarray
    depth: np.ndarray
    normals: np.ndarray
    labels: np.ndarray
    kinds: np.ndarray


def scenes(split="train"):
    """Rendered scenes of 32×32 pixels, uint16; the class is the large body's kind.

    Args:
        split: `"train"` (2,000 scenes) or `"test"` (500), always the same.

    Returns:
        `ArraySource` of 13 channels, `CHANNELS`: red, green, blue; depth, 1 for the
        wall; surface normals (right, down, away), from -1 to 1 stored as 0 to 1; six
        maps that are 1 where the floor, the wall, a sphere, box, cylinder or cone is
        seen.
    """
    checks.one_of({"split": split}, "split", tuple(_COUNTS))
    found = render(_COUNTS[split], seed=_SEEDS[split])
    maps = np.arange(2 + len(KINDS)) == found.labels[..., np.newaxis]
    channels = [found.rgb, found.depth[..., np.newaxis] / FAR]
    channels += [(found.normals + 1) / 2, maps]
    images = np.concatenate(channels, axis=-1)
    source = arrays.ArraySource(
        np.round(images * 65535).astype(np.uint16),
        found.kinds,
        name=f"scenes/{split}",
        class_names=KINDS,
    )
    source.maps = {"labels": (CHANNELS["labels"][0], ("floor", "wall", *KINDS))}
    return source


def render(count, *, seed, size=SIZE):
    """Draws scenes and renders them.

    Args:
        count: int >= 1.
        seed: int >= 0; the same scenes for the same seed and count.
        size: pixels of a side.

    Returns:
        `Rendered`.
    """
    rng = np.random.default_rng(seed)
    bodies = _draw(rng, count)
    steps = (np.arange(size) + 0.5) / size - 0.5
    rays = np.stack([*np.meshgrid(steps, steps), np.ones((size, size))], axis=-1)
    parts = [
        _seen({k: v[i : i + _CHUNK] for k, v in bodies.items()}, rays)
        for i in range(0, count, _CHUNK)
    ]
    depth, normals, labels, colors = (np.concatenate(part) for part in zip(*parts))
    light = rng.uniform((-1, -1, -1), (1, -0.5, -0.3), (count, 3))
    light /= np.linalg.norm(light, axis=1, keepdims=True)
    shade = np.einsum("nhwc,nc->nhw", normals, light)
    rgb = colors * (0.35 + 0.65 * np.maximum(shade, 0))[..., np.newaxis]
    rgb += rng.normal(0, _TEXTURE, depth.shape)[..., np.newaxis]
    rgb = np.clip(rgb, 0, 1)
    return Rendered(rgb, depth, normals, labels, bodies["kind"][:, 0])


def _draw(rng, count):
    """The bodies of scenes, a dict of arrays `(count, bodies, …)`, the large one first.

    Their colours have nothing to do with their kinds; two more are the room's.
    """
    shape = (count, 1 + _SMALL)

    def either(large, small):
        found = rng.uniform(*small, shape)
        found[:, 0] = rng.uniform(*large, count)
        return found

    return {
        "kind": rng.integers(len(KINDS), size=shape),
        "x": either((-0.4, 0.4), (-1.6, 1.6)),
        "z": either((2.4, 3.2), (2.6, 5.0)),
        "radius": either((0.55, 0.8), (0.15, 0.3)),
        "slenderness": rng.uniform(0.8, 1.2, shape),
        "turn": rng.uniform(0, np.pi / 2, shape),
        "color": rng.uniform(0.15, 1, (*shape, 3)),
        "room": rng.uniform(0.15, 1, (count, 2, 3)),
    }


def _seen(bodies, rays):
    """Depth, normals, labels and colours of what is nearest along every ray."""
    count, number = bodies["kind"].shape
    size = rays.shape[0]
    flat = {k: v.reshape(-1, 1, 1) for k, v in bodies.items() if v.ndim == 2}
    distance = np.full((count * number, size, size), np.inf)
    facing = np.zeros((*distance.shape, 3))
    for i, kind in enumerate(KINDS):
        rows = np.flatnonzero(flat["kind"] == i)
        own = {k: v[rows] for k, v in flat.items()}
        distance[rows], facing[rows] = _HITS[kind](rays, own)
    shape = (count, number, size, size)
    distance, facing = distance.reshape(shape), facing.reshape(*shape, 3)
    floor, wall = _room(rays)
    distance = np.concatenate([np.broadcast_to(room, (count, 1, size, size))
                               for room in (floor, wall)] + [distance], 1)  # fmt: skip
    flat_faces = np.array([[0.0, -1, 0], [0, 0, -1]])[:, np.newaxis, np.newaxis]
    room = np.broadcast_to(flat_faces, (count, 2, size, size, 3))
    facing = np.concatenate([room, facing], 1)
    nearest = distance.argmin(1)[:, np.newaxis]
    depth = np.take_along_axis(distance, nearest, 1)[:, 0]
    normals = np.take_along_axis(facing, nearest[..., np.newaxis], 1)[:, 0]
    labels = np.concatenate([np.tile([0, 1], (count, 1)), 2 + bodies["kind"]], 1)
    colors = np.concatenate([bodies["room"], bodies["color"]], 1)
    scene, which = np.arange(count)[:, np.newaxis, np.newaxis], nearest[:, 0]
    return depth, normals, labels[scene, which], colors[scene, which]


def _room(rays):
    """Distances of the floor and the wall."""
    with np.errstate(divide="ignore"):
        floor = np.where(rays[..., 1] > 0, _FLOOR / rays[..., 1], np.inf)
    return floor, np.full(floor.shape, FAR)


def _first(distance, normal, there):
    """`(distance, unit normal)`, infinitely far where a ray meets nothing."""
    there &= distance > 0
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    normal = normal / np.where(length > 0, length, 1)
    return np.where(there, distance, np.inf), normal


def _nearer(one, other):
    closer = one[0] <= other[0]
    return (
        np.where(closer, one[0], other[0]),
        np.where(closer[..., np.newaxis], one[1], other[1]),
    )


def _root(a, b, c):
    """The smaller root of `a t² + 2 b t + c`, and whether there is one."""
    inside = b * b - a * c
    return (-b - np.sqrt(np.maximum(inside, 0))) / a, inside > 0


def _sphere(rays, body):
    dx, dy, _ = np.moveaxis(rays, -1, 0)
    x, z, r = body["x"], body["z"], body["radius"]
    y = _FLOOR - r
    a = dx * dx + dy * dy + 1
    t, there = _root(a, -(dx * x + dy * y + z), x * x + y * y + z * z - r * r)
    return _first(t, np.stack([t * dx - x, t * dy - y, t - z], -1), there)


def _cylinder(rays, body):
    dx, dy, _ = np.moveaxis(rays, -1, 0)
    x, z, r = body["x"], body["z"], body["radius"] * 0.85
    top = _FLOOR - 2 * body["radius"] * body["slenderness"]
    t, there = _root(dx * dx + 1, -(dx * x + z), x * x + z * z - r * r)
    y = t * dy
    side = np.stack([t * dx - x, np.zeros_like(t), t - z], -1)
    side = _first(t, side, there & (y >= top) & (y <= _FLOOR))
    return _nearer(side, _disc(dx, dy, x, z, r, top))


def _disc(dx, dy, x, z, r, height):
    """A flat round lid that faces up."""
    with np.errstate(divide="ignore"):
        t = height / dy
    t = np.where(np.isfinite(t), t, -1)
    inside = (t * dx - x) ** 2 + (t - z) ** 2 <= r * r
    up = np.zeros((*t.shape, 3))
    up[..., 1] = -1
    # From below it is hidden by the body.
    return _first(t, up, inside & (dy > 0))


def _cone(rays, body):
    dx, dy, _ = np.moveaxis(rays, -1, 0)
    x, z, r = body["x"], body["z"], body["radius"]
    height = 2.2 * r * body["slenderness"]
    top, slope = _FLOOR - height, (r / height) ** 2
    a = dx * dx + 1 - slope * dy * dy
    b = -(dx * x + z) + slope * dy * top
    t, there = _root(a, b, x * x + z * z - slope * top * top)
    y = t * dy
    side = np.stack([t * dx - x, -slope * (y - top), t - z], -1)
    return _first(t, side, there & (y >= top) & (y <= _FLOOR))


def _box(rays, body):
    """In the box's own axes, of which two lie in the floor, turned."""
    dx, dy, _ = np.moveaxis(rays, -1, 0)
    x, z, r = body["x"], body["z"], body["radius"]
    cos, sin = np.cos(body["turn"]), np.sin(body["turn"])
    half = (0.8 * r, r * body["slenderness"], 0.8 * r / body["slenderness"])
    shape = np.broadcast_shapes(dx.shape, x.shape)
    center = (cos * x - sin * z, _FLOOR - half[1], sin * x + cos * z)
    ray = (cos * dx - sin, dy, sin * dx + cos)
    enter, leave = np.full(shape, -np.inf), np.full(shape, np.inf)
    axis = np.zeros(shape, np.int64)
    for i in range(3):
        with np.errstate(divide="ignore", invalid="ignore"):
            ends = [(center[i] + side * half[i]) / ray[i] for side in (-1, 1)]
        near, far = np.minimum(*ends), np.maximum(*ends)
        axis = np.where(near > enter, i, axis)
        enter, leave = np.maximum(enter, near), np.minimum(leave, far)
    own = np.zeros((*shape, 3))
    facing = -np.sign(np.stack(np.broadcast_arrays(*ray, enter)[:3], -1))
    np.put_along_axis(own, axis[..., np.newaxis], 1, -1)
    u, v, w = np.moveaxis(own * facing, -1, 0)
    normal = np.stack([cos * u + sin * w, v, -sin * u + cos * w], -1)
    return _first(enter, normal, enter <= leave)


_HITS = {"sphere": _sphere, "box": _box, "cylinder": _cylinder, "cone": _cone}
