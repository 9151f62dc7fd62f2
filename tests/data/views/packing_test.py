from scipy import stats

from tfssl.data import views
from tfssl.data.views import recipes


def test_steps_that_need_rgb_are_named():
    assert views.skipped_steps(recipes.SIMCLR, 3) == ()
    assert views.skipped_steps(recipes.SIMCLR, 4) == ("saturation", "hue", "gray")
    assert views.skipped_steps(recipes.SIMCLR_DIGITS, 1) == ()


def test_crops_of_the_drawn_numbers_have_the_drawn_areas():
    # Square images: a first try fits unless it is too long, which is rare.
    packed = views.pack(
        views.sample(recipes.MOCO_V1, batch=4000, channels=3, seed=0, step=0),
        recipes.MOCO_V1,
        3,
    )
    boxes = views.boxes(packed, recipes.MOCO_V1, 500, 500).numpy()[:, 0]
    area = boxes[:, 2] * boxes[:, 3] / 500**2
    # Small crops always fit, so that their areas keep the drawn distribution.
    small = area[area < 0.7]
    assert stats.kstest(small, stats.uniform(0.2, 0.5).cdf).pvalue > 1e-3
    assert area.max() <= 1.0 and area.min() > 0.19
