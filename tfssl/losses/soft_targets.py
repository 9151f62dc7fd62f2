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


def self_distillation(
    teacher_logits,
    student_logits,
    *,
    center,
    teacher_temperature,
    temperature=0.1,
):
    """How badly a student's views predict a teacher's outputs for other views.

    The teacher's `q = softmax((logits - center) / teacher_temperature)` of a view and
    the student's `p = softmax(logits / temperature)` of another one: the mean of
    `-sum_k q[k] log p[k]` over all such pairs. The teacher's views are the student's
    first ones, and none is compared with itself.

    Args:
        teacher_logits: float `(teacher views, batch, outputs)`, at least one view. No
            gradient flows into them.
        student_logits: float `(views, batch, outputs)`, at least two views, and as many
            as the teacher's.
        center: float `(outputs,)`, subtracted from the teacher's logits, which keeps
            one output from taking all images.
        teacher_temperature: float > 0, or a scalar tensor. Below `temperature` it
            sharpens, which keeps the outputs from becoming all the same.
        temperature: float > 0, of the student.

    Returns:
        `(loss, entropy)`, each float32 `(batch,)`, computed in float32 for any input
        dtype. `entropy` is the mean of the teacher's `-sum_k q[k] log q[k]` over the
        pairs, without gradient: `loss - entropy` is the mean divergence KL(q || p).

    Raises:
        ValueError: if the shapes do not fit or a temperature is not positive.

    Reference:
        Caron et al., 2021, https://arxiv.org/abs/2104.14294, equations 2 and 3;
        facebookresearch/dino, `DINOLoss` of main_dino.py.
    """
    checks.positive({"temperature": temperature}, "temperature")
    if not tf.is_tensor(teacher_temperature):
        checks.positive(
            {"teacher_temperature": teacher_temperature}, "teacher_temperature"
        )
    teacher, student = map(tf.convert_to_tensor, (teacher_logits, student_logits))
    _check_views(teacher.shape, student.shape)
    center = tf.cast(center, tf.float32)
    logits = (tf.cast(teacher, tf.float32) - center) / teacher_temperature
    log_q = tf.nn.log_softmax(tf.stop_gradient(logits))
    q = tf.exp(log_q)
    log_p = tf.nn.log_softmax(tf.cast(student, tf.float32) / temperature)
    # All views but one: of each teacher's view only its own is to be left out.
    looking = teacher.shape[0]
    others = tf.reduce_sum(log_p, axis=0) - log_p[:looking]
    pairs = looking * (student.shape[0] - 1)
    losses = -tf.reduce_sum(q * others, axis=[0, 2]) / pairs
    entropies = -tf.reduce_mean(tf.reduce_sum(q * log_q, axis=2), axis=0)
    return losses, entropies


def _check_views(teacher, student):
    ranks = teacher.rank == student.rank == 3
    if not ranks or not teacher[1:].is_compatible_with(student[1:]):
        raise ValueError(
            "teacher_logits and student_logits must be (views, batch, outputs) of one "
            f"batch and one number of outputs, got {teacher} and {student}."
        )
    if not 1 <= teacher[0] <= student[0] or student[0] < 2:
        raise ValueError(
            f"{teacher[0]} view(s) of the teacher and {student[0]} of the student "
            "received, expected two or more of the student, and the teacher's among "
            "them."
        )
