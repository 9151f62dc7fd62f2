"""What a recipe may say about its views, as frozen dataclasses of plain numbers."""

import dataclasses

from tfssl import checks
from tfssl.data.views import image_ops

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_CROP_RULES = ("area", "height")
_CROP_FALLBACKS = ("center", "whole", "clamp")
_BRIGHTNESS_MODES = ("multiply", "add")
_CONTRAST_MEANS = ("channel", "gray")
_BLUR_BORDERS = ("zero", "edge", "reflect")
_PROBABILITIES = ("flip", "jitter", "gray", "blur", "solarize", "erase")
_STRENGTHS = ("brightness", "contrast", "saturation")
_MOST_OPERATIONS = 16
_NON_NEGATIVE = ("rotation", "shear", "translation")


@dataclasses.dataclass(frozen=True)
class View:
    """The numbers that describe one random view; probabilities are in [0, 1].

    Attributes:
        size: side of the square view in pixels.
        area: smallest and largest area of the crop, as a fraction of the image.
        aspect: smallest and largest width over height of the crop.
        aspect_scale: `"log"` draws the logarithm of the ratio uniformly,
            `"linear"` the ratio itself.
        crop_rule: `"area"` draws the area uniformly, as the papers say; `"height"`
            draws the height, as TensorFlow's operation does, and leaves out crops of
            less than a tenth of the image, see `image_ops.crop_boxes`.
        crop_tries: rectangles drawn until one fits into the image.
        crop_fallback: `"center"`, `"whole"` or `"clamp"`, see
            `image_ops.crop_boxes`.
        flip: probability of a horizontal flip.
        jitter: probability of the whole colour jitter.
        brightness: strength d: a factor in [max(0, 1 - d), 1 + d], or with
            `brightness_mode="add"` a summand in [-d, d].
        contrast: strength d of a factor about the mean colour.
        saturation: strength d of a factor about the grey image (RGB only).
        hue: largest shift, as a fraction of the hue circle, at most 0.5 (RGB only).
        brightness_mode: `"multiply"` or `"add"`.
        contrast_mean: `"channel"`, every channel about its own mean (TensorFlow,
            JAX), or `"gray"`, about the mean of the grey image (PIL).
        random_order: the jitter's steps in random order, else in the order
            brightness, contrast, saturation, hue. Values are clipped to [0, 1]
            after every step.
        gray: probability of losing all colour (RGB only).
        gray_first: the grey conversion comes before the colour jitter instead of
            after it. Saturation and hue then change nothing in a grey view.
        blur: probability of a Gaussian blur.
        blur_sigma: smallest and largest standard deviation in pixels.
        blur_border: what lies beyond the image: `"zero"`, `"edge"`, `"reflect"`.
        solarize: probability of inverting the values at or above the threshold.
        solarize_threshold: in [0, 1].
        rotation: largest angle in radians, either way.
        shear: largest slope, either way.
        translation: largest shift as a fraction of the size, each way.
        rand_augment: how many of RandAugment's operations an image goes through, see
            `data.views.rand_augment`; 0 for none.
        rand_augment_magnitude: their strength, 10 for the largest of AutoAugment.
        erase: probability that a rectangle becomes noise, after all else, see
            `data.views.erasing`.
        resize: `"bilinear"` or `"bicubic"` (twice the cost).
        antialias: widen the filter when shrinking, as PIL does (twice the cost
            of plain bilinear).
        clip_resized: what a bicubic resize leaves beyond [0, 1] is cut before the
            jitter, instead of after its first step.
        mean: one number, or one per channel (a tuple of them once made), or None for
            no normalisation. Three are averaged for images that are not RGB.
        std: the same.
    """

    size: int = 224
    area: tuple = (0.08, 1.0)
    aspect: tuple = (3 / 4, 4 / 3)
    aspect_scale: str = "log"
    crop_rule: str = "area"
    crop_tries: int = 10
    crop_fallback: str = "center"
    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    brightness_mode: str = "multiply"
    contrast_mean: str = "channel"
    random_order: bool = True
    gray: float = 0.0
    gray_first: bool = False
    blur: float = 0.0
    blur_sigma: tuple = (0.1, 2.0)
    blur_border: str = "zero"
    solarize: float = 0.0
    solarize_threshold: float = 0.5
    rotation: float = 0.0
    shear: float = 0.0
    translation: float = 0.0
    rand_augment: int = 0
    rand_augment_magnitude: float = 9.0
    erase: float = 0.0
    resize: str = "bilinear"
    antialias: bool = False
    clip_resized: bool = False
    mean: tuple | None = None
    std: tuple | None = None

    def __post_init__(self):
        given = vars(self)
        checks.whole(given, "size", "crop_tries")
        for name in ("area", "aspect", "blur_sigma"):  # Given as lists, no dict's key.
            object.__setattr__(self, name, _pair(given[name], name))
        low, high = self.area
        if not 0 < low <= high <= 1:
            raise checks.refused(
                "area", self.area, "fractions of the image: 0 < low <= high <= 1"
            )
        low, high = self.aspect
        if not 0 < low <= high:
            raise checks.refused("aspect", self.aspect, "ratios with 0 < low <= high")
        low, high = self.blur_sigma
        if not 0 < low <= high:
            raise checks.refused(
                "blur_sigma", self.blur_sigma, "pixels with 0 < low <= high"
            )
        checks.share(given, *_PROBABILITIES, "solarize_threshold")
        checks.not_negative(given, *_STRENGTHS, *_NON_NEGATIVE)
        checks.within(given, checks.Range(0, 0.5), "hue")
        checks.whole(given, "rand_augment", least=0, most=_MOST_OPERATIONS)
        checks.within(given, checks.Range(0, 30), "rand_augment_magnitude")
        for name, allowed in (
            ("aspect_scale", ("log", "linear")),
            ("crop_rule", _CROP_RULES),
            ("crop_fallback", _CROP_FALLBACKS),
            ("brightness_mode", _BRIGHTNESS_MODES),
            ("contrast_mean", _CONTRAST_MEANS),
            ("blur_border", _BLUR_BORDERS),
        ):
            checks.one_of(given, name, allowed)
        image_ops.check_resize(self.resize)
        if (self.mean is None) != (self.std is None):
            raise checks.refused(
                "mean and std", (self.mean, self.std), "both or neither"
            )
        if self.mean is not None:
            for name in ("mean", "std"):
                values = image_ops.as_numbers(getattr(self, name), name)
                object.__setattr__(self, name, values)
            image_ops.check_normalization(self.mean, self.std)

    def scaled(self, size=None, **changes):
        """A copy with another size and any other fields changed."""
        if size is not None:
            changes["size"] = size
        return dataclasses.replace(self, **changes)

    def in_tiles(self, size, *, grid, whole, **changes):
        """`Tiles` of `size` pixels with the other fields of this view."""
        given = vars(self) | changes | {"size": size, "grid": grid, "whole": whole}
        return Tiles(**given)

    def untiled(self):
        """The view of the whole crop: this one, of tiles the one they are cut from."""
        return self

    def parts(self):
        """The views of one picture each that this one is made of."""
        return (self,)

    def told(self):
        """Its pixels in words."""
        return str(self.size)


@dataclasses.dataclass(frozen=True)
class Tiles(View):
    """A view in tiles: its crop is resized and cut, and every tile augmented by itself.

    The crop becomes a square of `whole` pixels, of `grid` x `grid` cells. Out of each
    cell a square of `size` pixels is cut at a random place, and has its own flip,
    colour, blur and all else that follows the resize. In a batch the view has a
    dimension more, `(batch, grid * grid, size, size, channels)`, cell by cell from top
    left; shuffling them is for the method, which may have to know their order.

    Attributes:
        size: side of a tile in pixels, at most that of a cell.
        grid: cells in a row, and in a column.
        whole: side of the square that is cut, a multiple of `grid`.
    """

    size: int = 64
    grid: int = 3
    whole: int = 255

    def __post_init__(self):
        super().__post_init__()
        checks.whole(vars(self), "grid", "whole")
        if self.whole % self.grid:
            raise ValueError(
                f"grid={self.grid} does not divide whole={self.whole} pixels; choose a "
                f"multiple, for example whole={self.grid * max(1, round(self.cell))}."
            )
        if self.size > self.cell:
            raise ValueError(
                f"size={self.size} received for tiles out of cells of {self.cell:g} "
                f"pixels (whole={self.whole}, grid={self.grid}); use smaller tiles."
            )

    @property
    def cell(self):
        """Side of a cell in pixels."""
        return self.whole / self.grid

    def scaled(self, size=None, **changes):
        """As `View.scaled`; the cells keep their proportion to the tiles."""
        if size is not None and "whole" not in changes:
            cell = max(size, round(self.cell * size / self.size))
            changes["whole"] = changes.get("grid", self.grid) * cell
        return super().scaled(size, **changes)

    def untiled(self):
        given = {field.name: getattr(self, field.name) for field in _FIELDS_OF_VIEW}
        return View(**given | {"size": self.whole})

    def parts(self):
        given = {name: value for name, value in vars(self).items() if name != "number"}
        return tuple(Tile(**given, number=i) for i in range(self.grid**2))

    def told(self):
        return f"{self.grid**2} x {self.size}"


@dataclasses.dataclass(frozen=True)
class Tile(Tiles):
    """One tile of a `Tiles`, as `Tiles.parts` makes them; not for a recipe.

    Attributes:
        number: which one, from the top left, row by row.
    """

    number: int = 0

    def parts(self):
        return (self,)


_FIELDS_OF_VIEW = dataclasses.fields(View)


def _pair(value, name):
    try:
        low, high = value
    except (TypeError, ValueError):
        raise checks.refused(name, value, "two numbers (low, high)") from None
    return low, high


def per_channel(values, channels, name):
    """The mean or std of a view, as many numbers as there are channels.

    Args:
        values: tuple of floats: one for all channels, one per channel, or three of RGB,
            which are averaged for images of other channels.
        channels: int, of the images.
        name: for the message.

    Raises:
        ValueError: for any other number of them.
    """
    if len(values) == channels:
        return values
    if len(values) not in (1, 3):
        raise ValueError(
            f"{name}={values} received for images of {channels} channel(s), expected "
            f"one number or {channels}; give one per channel (three, of RGB, are "
            "averaged where the images are not RGB)."
        )
    return (sum(values) / len(values),) * channels


def normalization(view, channels):
    """`(mean, std)` of a view for `channels` channels, or `(None, None)`.

    One number is for all channels. Three, of RGB, are averaged for images of other than
    three channels; other numbers of them raise `ValueError`.
    """
    if view.mean is None:
        return None, None
    mean = per_channel(view.mean, channels, "mean")
    return mean, per_channel(view.std, channels, "std")


class Recipe(tuple):
    """A tuple of `View`s with a name: all views that one image gives."""

    def __new__(cls, views, name="custom"):
        self = super().__new__(cls, views)
        self.name = name
        check(self)
        return self

    def __getnewargs__(self):
        return tuple(self), self.name

    def __repr__(self):
        return f"Recipe({self.name!r}, {list(self)!r})"

    def scaled(self, size=None, **changes):
        """The recipe for another image size.

        Args:
            size: side of the first view; the others keep their proportion to it
                (224 and 96 become 32 and 14). Of a view in tiles that of the whole,
                to the nearest multiple of its grid. None keeps all sizes.
            **changes: fields of `View` to set in every view, for example
                `blur=0.0`.

        Returns:
            A new `Recipe` of the same name.
        """
        ratio = 1.0 if size is None else size / self[0].untiled().size
        views = [
            view.scaled(max(1, round(view.size * ratio)) if size else None, **changes)
            for view in self
        ]
        return Recipe(views, self.name)


def check(recipe):
    """Raises `ValueError` unless `recipe` is a non-empty sequence of views."""
    if not len(recipe):
        raise ValueError("The recipe has no views; give at least one View.")
    for view in recipe:
        if not isinstance(view, View):
            raise ValueError(
                f"The recipe holds {view!r}; every entry must be a tfssl.data.View."
            )


def for_channels(recipe, channels):
    """The recipe with means and deviations that fit `channels` channels."""
    views = []
    for view in recipe:
        mean, std = normalization(view, channels)
        views.append(view.scaled(mean=mean, std=std))
    return Recipe(views, getattr(recipe, "name", "custom"))
