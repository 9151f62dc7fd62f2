"""Views in plain NumPy, float64, one step after the other: what `apply` must equal.

Nothing here comes from the library but the names of a view's fields. `hue` chooses
between the two colour spaces: "yiq", which the library documents, and "hsv", which
the papers' code has; `saturation="hsv"` is that of `tf.image`.
"""

import numpy as np
from scipy import ndimage

from tests.data import plain_operations

LUMA = np.array([0.299, 0.587, 0.114])
_STEPS = ("brightness", "contrast", "saturation", "hue")
_MODES = {"zero": "constant", "edge": "nearest", "reflect": "mirror"}


def box(areas, aspects, place, height, width, fallback):
    """RandomResizedCrop as a loop over tries, in float32 like the graph."""
    f = np.float32
    for area, aspect in zip(areas, aspects):
        pixels = f(area) * f(height * width)
        w = max(1, int(np.round(np.sqrt(pixels * f(aspect)))))
        h = max(1, int(np.round(np.sqrt(pixels / f(aspect)))))
        if w <= width and h <= height:
            return [
                int(place[0] * (height - h + 1)),
                int(place[1] * (width - w + 1)),
                h,
                w,
            ]
    if fallback == "whole":
        return [0, 0, height, width]
    if fallback == "clamp":
        w, h = min(w, width), min(h, height)
        return [int(place[0] * (height - h + 1)), int(place[1] * (width - w + 1)), h, w]
    ratio = np.clip(width / height, min(aspects), max(aspects))
    w = min(width, max(1, round(height * ratio)))
    h = min(height, max(1, round(width / ratio)))
    return [(height - h + 1) // 2, (width - w + 1) // 2, h, w]


def box_by_height(shares, aspects, place, height, width, areas):
    """`GenerateRandomCrop` of TensorFlow's sample_distorted_bounding_box_op.cc."""
    f, whole = np.float32, height * width
    least, most = f(areas[0]) * f(whole), f(areas[1]) * f(whole)
    for share, aspect in zip(shares, aspects):
        low = int(np.rint(np.sqrt(least / f(aspect))))
        high = int(np.rint(np.sqrt(most / f(aspect))))
        if np.rint(f(high) * f(aspect)) > width:
            high = int((width + 0.5 - 1e-7) / f(aspect))
        high = min(high, height)
        h = min(low, high)
        h += min(int(f(share) * f(high - h + 1)), high - h)
        w = int(np.rint(f(h) * f(aspect)))
        if w * h < least:
            h += 1
            w = int(np.rint(f(h) * f(aspect)))
        if w * h > most:
            h -= 1
            w = int(np.rint(f(h) * f(aspect)))
        fits = 0 < w <= width and 0 < h <= height and least <= w * h <= most
        if fits and w * h >= f(0.1) * f(whole):  # min_object_covered.
            return [int(place[0] * (height - h)), int(place[1] * (width - w)), h, w]
    return [0, 0, height, width]


def _keys(x):
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def _triangle(x):
    return np.maximum(1 - np.abs(x), 0)


def _resize_matrix(size, length, method, antialias):
    centre = (np.arange(size)[:, None] + 0.5) * length / size - 0.5
    stretch = max(length / size, 1.0) if antialias else 1.0
    kernel = _keys if method == "bicubic" else _triangle
    weights = kernel((np.arange(length) - centre) / stretch)
    if method == "bilinear" and not antialias:
        centre = np.clip(centre, 0, length - 1)  # Beyond the edge: the edge.
        weights = _triangle(np.arange(length) - centre)
    return weights / weights.sum(1, keepdims=True)


def resize(image, size, method="bilinear", antialias=False):
    """Weights from the definition of the filter."""
    down = _resize_matrix(size, image.shape[0], method, antialias)
    across = _resize_matrix(size, image.shape[1], method, antialias)
    return np.einsum("ij,jkc,lk->ilc", down, image.astype(np.float64), across)


def affine(image, rotation, shear, translation):
    """Where each output pixel is read, by `ndimage`; outside, the nearest edge."""
    size = len(image)
    half = (size - 1) / 2
    y, x = np.mgrid[:size, :size] - half
    x, y = x - translation[0] * size, y - translation[1] * size
    x = x - shear * y
    cos, sin = np.cos(rotation), np.sin(rotation)
    at = [sin * x + cos * y + half, cos * x - sin * y + half]
    planes = [
        ndimage.map_coordinates(plane, at, order=1, mode="nearest")
        for plane in np.moveaxis(image, -1, 0)
    ]
    return np.stack(planes, -1)


def gray(x):
    return np.repeat((x @ LUMA)[..., None], 3, -1)


def yiq_hue(image, delta):
    """Turns I and Q of YIQ by the angle, pixel by pixel."""
    forward = np.array(
        [[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]]
    )
    forward[1:] -= forward[1:].mean(1, keepdims=True)
    y, i, q = np.moveaxis(image @ forward.T, -1, 0)
    chroma = (i + 1j * q) * np.exp(-2j * np.pi * delta)
    return np.stack([y, chroma.real, chroma.imag], -1) @ np.linalg.inv(forward).T


def _to_hsv(image):
    """Hue in sixths of the circle, saturation and value, as `colorsys` has them."""
    r, g, b = np.moveaxis(image, -1, 0)
    value, chroma = image.max(-1), np.ptp(image, -1)
    safe = np.where(chroma > 0, chroma, 1.0)
    sector = np.select(
        [value == r, value == g], [(g - b) / safe % 6, (b - r) / safe + 2],
        (r - g) / safe + 4,
    )  # fmt: skip
    return sector, chroma / np.where(value > 0, value, 1.0), value


def _from_hsv(sector, saturation, value):
    def channel(n):
        k = (n + sector) % 6
        return value * (1 - saturation * np.clip(np.minimum(k, 4 - k), 0, 1))

    return np.stack([channel(5), channel(3), channel(1)], -1)


def hsv_hue(image, delta):
    """The shift of PIL, torchvision and `tf.image`."""
    sector, saturation, value = _to_hsv(image)
    return _from_hsv(sector + 6 * delta, saturation, value)


def hsv_saturation(image, factor):
    """The factor of `tf.image`; the largest channel stays."""
    sector, saturation, value = _to_hsv(image)
    return _from_hsv(sector, np.clip(saturation * factor, 0, 1), value)


def jitter(image, n, view, hue="yiq", saturation="gray"):
    """Colour jitter and grey, clipped after each step, as the papers write them."""
    channels = image.shape[-1]

    def change_brightness(x):
        adds = view.brightness_mode == "add"
        return x + n["brightness"] if adds else x * n["brightness"]

    def change_contrast(x):
        mean = x.mean((0, 1))
        if view.contrast_mean == "gray" and channels == 3:
            mean = gray(x).mean()
        return mean + (x - mean) * n["contrast"]

    def change_saturation(x):
        if saturation == "hsv":
            return hsv_saturation(x, n["saturation"])
        return gray(x) + (x - gray(x)) * n["saturation"]

    def change_hue(x):
        return (hsv_hue if hue == "hsv" else yiq_hue)(x, n["hue"])

    steps = [change_brightness, change_contrast, change_saturation, change_hue]
    steps = steps if channels == 3 else steps[:2]
    grays = n["gray"] > 0.5 and channels == 3
    if grays and view.gray_first:
        image = gray(image)
    if n["jitter"] > 0.5:
        for i in np.argsort(n["order"][: len(steps)], kind="stable"):
            if getattr(view, _STEPS[i]) > 0:
                image = np.clip(steps[i](image), 0.0, 1.0)
    if view.resize == "bicubic":
        image = np.clip(image, 0.0, 1.0)
    return gray(image) if grays and not view.gray_first else image


def blur(image, sigma, border, radius):
    """Two passes of a Gaussian of sum 1, cut at `radius`."""
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    out = image.astype(np.float64)
    for axis in (0, 1):
        out = ndimage.correlate1d(out, taps / taps.sum(), axis, mode=_MODES[border])
    return out


def tile(image, n, view):
    """One tile of a crop that was resized, as `specs.Tile` says."""
    cell = view.whole // view.grid
    row, column = divmod(view.number, view.grid)
    down, across = (int(share * (cell - view.size)) for share in n["cell"])
    top, left = cell * row + down, cell * column + across
    out = image[top : top + view.size, left : left + view.size]
    return out[:, ::-1] if n["flip"] > 0.5 else out


def view(image, n, view, of_crop=None, **spaces):
    """One view.

    Args:
        image: `(height, width, channels)`, values in [0, 1].
        n: dict of one view's numbers, as `views.split` names them.
        view: the `View`, or `Tile`.
        of_crop: dict of the numbers that its crop goes by, where they are others.
        **spaces: for `jitter`.
    """
    channels = image.shape[-1]
    tries = view.crop_tries
    by_height = view.crop_rule == "height"
    of_crop = n if of_crop is None else of_crop
    top, left, high, wide = (box_by_height if by_height else box)(
        of_crop["areas"][:tries], of_crop["aspects"][:tries], of_crop["place"],
        *image.shape[:2],
        view.area if by_height else view.crop_fallback,
    )  # fmt: skip
    out = image[top : top + high, left : left + wide]
    if hasattr(view, "number"):
        out = resize(out, view.whole, view.resize, view.antialias)
        out = tile(out, n, view)
    else:
        if n["flip"] > 0.5:
            out = out[:, ::-1]
        out = resize(out, view.size, view.resize, view.antialias)
    if view.clip_resized:
        out = np.clip(out, 0.0, 1.0)
    if max(view.rotation, view.shear, view.translation) > 0:
        out = affine(out, n["rotation"], n["shear"], n["translation"])
    if view.rand_augment:
        out = plain_operations.view(out, n["rand_augment"], view)
    out = jitter(out, n, view, **spaces)
    if n["sigma"] > 0:
        radius = min(int(np.ceil(4 * view.blur_sigma[1])), view.size - 1)
        out = blur(out, n["sigma"], view.blur_border, radius)
    if n["solarize"] > 0.5:
        out = np.where(out < view.solarize_threshold, out, 1 - out)
    if view.mean is not None:
        mean, std = (np.resize(x, channels) for x in (view.mean, view.std))
        out = (out - mean) / std
    return out
