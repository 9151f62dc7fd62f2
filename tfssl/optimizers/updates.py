"""What the update steps of this folder's optimizers share."""

import tensorflow as tf


def dense(gradient):
    """The gradient as a tensor: that of an embedding comes as rows with indices."""
    if isinstance(gradient, tf.IndexedSlices):
        return tf.convert_to_tensor(gradient)
    return gradient


def names(argument, value):
    """`value` as a tuple of strings.

    Args:
        argument: name of the argument, for the error.
        value: list or tuple of variable names, as `("bias", "gamma")`.

    Returns:
        A tuple of str.

    Raises:
        ValueError: if `value` is a string, which would be read as its letters,
            or holds something else than strings without a slash.
    """
    if isinstance(value, str) or not all(
        isinstance(name, str) and name and "/" not in name for name in value
    ):
        raise ValueError(
            f"{argument} must be a tuple of last parts of variable paths, such as "
            f"('bias', 'gamma'), got {value!r}."
        )
    return tuple(value)


def flags(variables, excluded):
    """Per variable, whether it is NOT excluded.

    Args:
        variables: Keras variables.
        excluded: names that the last part of `variable.path` is compared with.

    Returns:
        A list of bool in the order of `variables`.
    """
    return [v.path.rsplit("/", 1)[-1] not in excluded for v in variables]
