"""Losses against what another network says of an image: its class probabilities."""

import tensorflow as tf

from tfssl import checks


def distillation(teacher_logits, student_logits, *, temperature):
    """Cross-entropy of a student's class probabilities with a teacher's.

    `-sum_y P_T(y) log P_S(y)` for each image, where `P = softmax(logits / temperature)`
    of teacher and student alike. For equal logits it is the entropy of `P_T`, not 0.

    Args:
        teacher_logits: float `(batch, classes)`. No gradient flows into them.
        student_logits: float `(batch, classes)`, of the same classes in the same order.
        temperature: float > 0. SimCLRv2 takes 0.1 for a student like its teacher and 1
            for a smaller one.

    Returns:
        float32 `(batch,)`, computed in float32 for any input dtype. The gradient of one
        with respect to its student's logits is `(P_S - P_T) / temperature`.

    Raises:
        ValueError: if the shapes differ or the temperature is not positive.

    Reference:
        Chen et al., 2020, https://arxiv.org/abs/2006.10029 (SimCLRv2), the distillation
        loss. Hinton et al., 2015, https://arxiv.org/abs/1503.02531, multiply it with
        `temperature ** 2`, so that its gradients do not fade at high temperatures
        beside those of true labels; so does the demonstration of SimCLRv2's authors
        (google-research/simclr, colabs/distillation_self_training.ipynb), where the
        temperature is 1. The equation of their paper does not, and neither does this.
    """
    checks.positive({"temperature": temperature}, "temperature")
    teacher, student = map(tf.convert_to_tensor, (teacher_logits, student_logits))
    if student.shape.rank != 2 or not student.shape.is_compatible_with(teacher.shape):
        raise ValueError(
            "teacher_logits and student_logits must have one shape (batch, classes), "
            f"got {teacher.shape} and {student.shape}."
        )
    teacher = tf.stop_gradient(tf.cast(teacher, tf.float32))
    return tf.nn.softmax_cross_entropy_with_logits(
        labels=tf.nn.softmax(teacher / temperature),
        logits=tf.cast(student, tf.float32) / temperature,
    )
