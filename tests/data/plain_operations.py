"""RandAugment in plain NumPy, float64: what `views.apply` must equal.

Written from the paper's appendix and the authors' code a second time; pixels are read
one by one, tables are made level by level.
"""

import numpy as np

NAMES = (
    "auto_contrast", "equalize", "invert", "rotate", "posterize", "solarize", "color",
    "contrast", "brightness", "sharpness", "shear_x", "shear_y", "translate_x",
    "translate_y", "cutout", "solarize_add",
)  # fmt: skip
GRAY = 128 / 255
_LUMA = np.array([0.299, 0.587, 0.114])


def view(image, numbers, view):
    """All operations of a view; `numbers` are four for each, uniform in [0, 1)."""
    image = np.clip(image, 0, 1)
    for which, sign, row, column in numbers.reshape(-1, 4)[: view.rand_augment]:
        magnitude = view.rand_augment_magnitude
        name = NAMES[int(which * 16)]
        image = operation(name, image, magnitude, sign, row, column)
    return image


def operation(name, image, magnitude, sign=0.9, row=0.0, column=0.0):
    size, share = len(image), magnitude / 10
    way = -1 if sign < 0.5 else 1
    levels = np.round(image * 255)
    factor = 0.1 + 1.8 * share
    if name == "auto_contrast":
        low, high = image.min((0, 1)), image.max((0, 1))
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(high > low, (image - low) / (high - low), image)
    if name == "equalize":
        planes = [_equalized(plane) for plane in np.moveaxis(levels, -1, 0)]
        return np.stack(planes, -1) / 255
    if name == "invert":
        return 1 - image
    if name == "posterize":
        step = 2 ** (8 - max(1, min(8, int(4 * share))))
        return levels // step * step / 255
    if name == "solarize":
        return np.where(levels < int(256 * share), image, 1 - image)
    if name == "solarize_add":
        added = np.minimum(image + int(110 * share) / 255, 1)
        return np.where(levels < 128, added, image)
    if name == "cutout":
        half = round(40 * share * size / 224)
        middle = int(row * size), int(column * size)
        (top, low), (left, right) = ((max(0, m - half), m + half) for m in middle)
        image = image.copy()
        image[top:low, left:right] = GRAY
        return image
    rgb = image.shape[-1] == 3
    if name == "color":
        gray = (image @ _LUMA)[..., None] if rgb else image
        return np.clip(gray + factor * (image - gray), 0, 1)
    if name == "contrast":
        mean = (image @ _LUMA).mean() if rgb else image.mean((0, 1))
        return np.clip(mean + factor * (image - mean), 0, 1)
    if name == "brightness":
        return np.clip(factor * image, 0, 1)
    if name == "sharpness":
        return _sharpened(image, factor)
    slope, pixels = way * 0.3 * share, way * 100 * share * size / 224
    turn, half = np.radians(way * 30 * share), (size - 1) / 2

    def source(y, x):
        if name == "rotate":
            dy, dx = y - half, x - half
            return (
                half + np.sin(turn) * dx + np.cos(turn) * dy,
                half + np.cos(turn) * dx - np.sin(turn) * dy,
            )
        return {
            "shear_x": (y, x + slope * y),
            "shear_y": (y + slope * x, x),
            "translate_x": (y, x + pixels),
            "translate_y": (y + pixels, x),
        }[name]

    out = np.full(image.shape, GRAY)
    for y in range(size):
        for x in range(size):
            at = tuple(int(np.floor(p + 0.5)) for p in source(y, x))
            if 0 <= min(at) and max(at) < size:
                out[y, x] = image[at]
    return out


def _equalized(plane):
    counts = [int((plane == level).sum()) for level in range(256)]
    used = [count for count in counts if count]
    step = (sum(used) - used[-1]) // 255
    if not step:
        return plane
    table, seen = [], step // 2
    for count in counts:
        table.append(min(seen // step, 255))
        seen += count
    return np.array(table)[plane.astype(int)]


def _sharpened(image, factor):
    out = image.copy()
    for y in range(1, len(image) - 1):
        for x in range(1, len(image) - 1):
            around = image[y - 1 : y + 2, x - 1 : x + 2].sum((0, 1))
            smooth = (around + 4 * image[y, x]) / 13
            out[y, x] = np.clip(smooth + factor * (image[y, x] - smooth), 0, 1)
    return out
