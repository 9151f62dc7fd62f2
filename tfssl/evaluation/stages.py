"""The stages of an encoder: its named feature maps, for probes and retrieval."""

import keras


def names(encoder):
    """The names of an encoder's stages, from the input on.

    Raises:
        ValueError: if the encoder names none.
    """
    outputs = getattr(encoder, "stage_outputs", None)
    if not outputs:
        raise ValueError(
            f"The encoder {encoder.name!r} ({type(encoder).__name__}) names no stages "
            "(it has no stage_outputs); take one of tfssl's own, such as resnet50."
        )
    return tuple(outputs)


def check(encoder, chosen):
    """Raises `ValueError` unless all of the names `chosen` are stages."""
    known = names(encoder)
    for name in chosen:
        if name not in known:
            raise ValueError(
                f"stage {name!r} received, but the stages of the encoder "
                f"{encoder.name!r} are {', '.join(known)}."
            )


def any_size(encoder, stage):
    """The part of an encoder up to a stage, for images of any size.

    Args:
        encoder: a functional Keras model with `stage_outputs`.
        stage: name of one.

    Returns:
        Keras model `(batch, h, w, c)` -> `(batch, h', w', c')`. It shares the layers
        of the encoder.
    """
    check(encoder, [stage])
    images = encoder.inputs[0]
    # The encoder may be built for one size; its layers up to here are not.
    return keras.models.clone_model(
        keras.Model(images, encoder.stage_outputs[stage]),
        input_tensors=keras.Input((None, None, images.shape[-1])),
        clone_function=lambda layer: layer,
    )
