"""The views of BEiT, as those of `recipes`."""

from tfssl.data.views.specs import IMAGENET_MEAN, IMAGENET_STD, Recipe, View

# Bao et al., 2022, https://arxiv.org/abs/2106.08254, microsoft/unilm, beit: the view of
# the transformer (the jitter comes before the crop there). The tokenizer's is made of
# it in the step (methods.BEiT). The command for ImageNet has its mean and deviation.
BEIT = Recipe(
    [
        View(
            size=224,
            jitter=1.0,
            brightness=0.4,
            contrast=0.4,
            saturation=0.4,
            contrast_mean="gray",
            resize="bicubic",
            antialias=True,
            clip_resized=True,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        )
    ],
    "beit",
)

# Not from the paper, which has no images of 32 pixels: crops are larger.
BEIT_CIFAR10 = Recipe(BEIT.scaled(32, area=(0.2, 1.0)), "beit_cifar10")

RECIPES = {
    "beit": BEIT,
    "beit_cifar10": BEIT_CIFAR10,
}
