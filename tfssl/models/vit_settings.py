"""A trained vision transformer with other settings, and the weights that it has."""

from tfssl import checks
from tfssl.models import headed
from tfssl.models.vit import ViT

CHANGEABLE = ("relative", "pooling", "drop_path")


def with_settings(network, /, **changes):
    """The same vision transformer with other settings and copies of its weights.

    `relative="blocks"` gives each block a table of relative positions of its own, which
    begins as a copy of the one that all of them shared: so BEiT is fine-tuned. Without
    a new `pooling` the features of an image stay what they were, until it is trained.

    Args:
        network: a built `ViT`, or a `Headed` one. It stays as it is.
        **changes: arguments of `ViT`, some of `CHANGEABLE`.

    Raises:
        ValueError: for another network, another argument, or a value that it does not
            take.

    Reference:
        Bao et al., 2022, https://arxiv.org/abs/2106.08254 (microsoft/unilm, beit,
        run_class_finetuning.py).
    """
    if isinstance(network, headed.Headed) and isinstance(network.encoder, ViT):
        return headed.Headed(
            with_settings(network.encoder, **changes),
            network.head,
            image_shape=network.image_shape,
            name=network.name,
        )
    _check(network, changes)
    made = ViT.from_config(network.get_config() | changes)
    # By layers: a shared table is among the weights of each block.
    for layer in network.layers:
        made.get_layer(layer.name).set_weights(layer.get_weights())
    return made


def _check(network, changes):
    if not isinstance(network, ViT) or set(changes) - set(CHANGEABLE):
        told = ", ".join(f"{name}={value!r}" for name, value in changes.items())
        raise ValueError(
            f"{told} received for an encoder that is trained already "
            f"({network.name!r}); a new one takes such arguments, and of a trained "
            f"vision transformer {', '.join(CHANGEABLE)} can change."
        )
    had, wanted = network.settings["relative"], changes.get("relative")
    if wanted not in (None, had) and (had, wanted) != ("shared", "blocks"):
        raise checks.refused(
            "relative",
            wanted,
            f"{had!r}, which the encoder {network.name!r} was trained with"
            + (", or 'blocks'" if had == "shared" else ""),
        )
