"""What every method asks of its optimizer."""

from tfssl.optimizers import slots


def check(optimizer, strategy):
    """Raises `ValueError` unless a method can train with this Keras optimizer.

    Args:
        optimizer: a Keras optimizer.
        strategy: the `tf.distribute.Strategy` that the method trains under.
    """
    adding = slots.innermost(optimizer).gradient_accumulation_steps
    if adding:
        raise ValueError(
            f"The optimizer has gradient_accumulation_steps={adding}, which adds "
            "no negatives and fails under several replicas; set it to None."
        )
    count, here = strategy.num_replicas_in_sync, strategy.extended
    # Each replica would count the same step.
    if count > 1 and not all(
        here.variable_created_in_scope(v.value) for v in optimizer.variables
    ):
        raise ValueError(
            f"The optimizer ({type(optimizer).__name__}) was made outside of the "
            f"strategy of {count} replicas that trains this method; make it inside of "
            "strategy.scope()."
        )
