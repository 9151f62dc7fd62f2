"""The view of a tokenizer's training, as those of `recipes`."""

from tfssl.data.views.specs import Recipe, View

# Ramesh et al., 2021, https://arxiv.org/abs/2102.12092, listing 1: the largest square,
# its sides made 288 to 384 pixels long by the area filter, of which 256 x 256 are cut,
# and a flip. Here a square of (256/384)^2 to (256/288)^2 of the area: the same of a
# square image; of one of 4:3, 0.77 to 1 of the shorter side (there 0.67 to 0.89).
TOKENIZER = Recipe(
    [
        View(
            size=256,
            area=(0.444, 0.79),
            aspect=(1.0, 1.0),
            jitter=0.0,
            antialias=True,
        )
    ],
    "tokenizer",
)
# Not from a paper: small pictures are seen whole, or nearly so.
TOKENIZER_CIFAR10 = Recipe(TOKENIZER.scaled(32, area=(0.6, 1.0)), "tokenizer_cifar10")
TOKENIZER_DIGITS = Recipe(
    TOKENIZER.scaled(32, area=(0.75, 1.0), flip=0.0), "tokenizer_digits"
)

RECIPES = {
    recipe.name: recipe for recipe in (TOKENIZER, TOKENIZER_CIFAR10, TOKENIZER_DIGITS)
}
