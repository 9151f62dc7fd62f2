"""Contrastive losses: an image's other view against the rest of a batch.

Pure functions of tensors, computed in float32 for any input dtype, with one
result per image. They know nothing of replicas: a caller on several replicas
gathers the embeddings itself and passes them in.
"""

import tensorflow as tf

from tfssl import checks
from tfssl.losses import blockwise, unit_norm


def _check(z_a, z_b, temperature, global_a, global_b, negatives):
    checks.positive({"temperature": temperature}, "temperature")
    for name, first, second in (("z", z_a, z_b), ("global", global_a, global_b)):
        if first is None and second is None:
            continue
        if first is None or second is None:
            missing = f"{name}_a" if first is None else f"{name}_b"
            raise ValueError(
                f"global_a and global_b belong together, but {missing} is None; "
                "give both or neither."
            )
        if first.shape.rank != 2 or not first.shape.is_compatible_with(second.shape):
            raise ValueError(
                f"{name}_a and {name}_b must be of one shape (rows, dim), got "
                f"{first.shape} and {second.shape}."
            )
    dim = z_a.shape[1:]
    if global_a is not None and not global_a.shape[1:].is_compatible_with(dim):
        raise ValueError(
            "z_a and global_a must have the same last dimension, got shapes "
            f"{z_a.shape} and {global_a.shape}."
        )
    if negatives is not None and not (
        negatives.shape.rank == 2 and negatives.shape[1:].is_compatible_with(dim)
    ):
        raise ValueError(
            f"negatives must be (num, dim) with the dim of z_a, got {negatives.shape} "
            f"for z_a of shape {z_a.shape}."
        )


def _tensors(z_a, z_b, temperature, global_a, global_b, negatives):
    """Checked arguments of unit norm, with the local batch for missing globals."""
    z_a, z_b = tf.convert_to_tensor(z_a), tf.convert_to_tensor(z_b)
    if global_a is not None:
        global_a = tf.convert_to_tensor(global_a)
    if global_b is not None:
        global_b = tf.convert_to_tensor(global_b)
    if negatives is not None:
        negatives = tf.convert_to_tensor(negatives)
    _check(z_a, z_b, temperature, global_a, global_b, negatives)
    z_a, z_b = unit_norm.unit_rows(z_a), unit_norm.unit_rows(z_b)
    all_a = z_a if global_a is None else unit_norm.unit_rows(global_a)
    all_b = z_b if global_b is None else unit_norm.unit_rows(global_b)
    if negatives is not None:
        negatives = unit_norm.unit_rows(negatives)
    return z_a, z_b, all_a, all_b, negatives


def nt_xent(
    z_a,
    z_b,
    *,
    temperature=0.1,
    global_a=None,
    global_b=None,
    offset=0,
    negatives=None,
):
    """NT-Xent: cross-entropy of picking an image's other view out of a batch.

    Row `i` of `z_a` and row `i` of `z_b` embed two views of one image. With
    cosine similarity `s`, the loss of anchor `u = z_a[i]` is
    `-log(exp(s(u, z_b[i]) / temperature) / sum_v exp(s(u, v) / temperature))`,
    `v` running over all rows of both views except `u` itself, and over `negatives`.
    Stateless, and blind to `tf.distribute`: a caller on several replicas gathers for
    itself.

    Memory grows with `batch * global_batch`; `nt_xent_blockwise` is the same
    function with linear memory.

    Args:
        z_a: float tensor `(batch, dim)`, embeddings of view A. Need not be
            normalized. An all-zero row has similarity 0 to everything and gets a
            zero gradient.
        z_b: float tensor, shape as `z_a`, embeddings of view B.
        temperature: Python float > 0, unitless. 0.1 is the default of the
            authors' code for ImageNet; retune it when the batch shrinks.
        global_a: `(global_batch, dim)` tensor, `z_a` of all replicas stacked,
            or `None` if `z_a` is already the whole batch.
        global_b: the same for `z_b`. Give both or neither.
        offset: int or int32 scalar, the row of `global_a` that holds `z_a[0]`.
        negatives: `(num, dim)` tensor, further candidates that are nobody's positive
            (a queue), or None. Equal on all replicas.

    Returns:
        float32 tensor `(batch,)`: per image, the mean over its two anchors.
        Not reduced over the batch: the caller owns mean, weights and replica
        scaling. Computed in float32 for any input dtype, so that
        `exp(1 / temperature)` cannot overflow under `mixed_float16`.

    Raises:
        ValueError: if `temperature <= 0`, if `z_a` and `z_b` are not rank 2 or
            differ in shape, if only one of `global_a`, `global_b` is given, or
            if their dimension or that of `negatives` is another one.

    Reference:
        Chen et al., 2020, https://arxiv.org/abs/2002.05709, Eq. 1. The mean
        over both anchors matches the paper's Algorithm 1; the authors' code
        (google-research/simclr, tf2/objective.py) adds them: twice this value.

    Example:
        >>> z = tf.ones((4, 8))  # All alike: a choice of 2 * 4 - 1, log(7).
        >>> round(float(nt_xent(z, z)[0]), 4)
        1.9459
    """
    z_a, z_b, all_a, all_b, negatives = _tensors(
        z_a, z_b, temperature, global_a, global_b, negatives
    )
    rows = offset + tf.range(tf.shape(z_a)[0])  # (batch,), also the labels.
    itself = tf.one_hot(rows, tf.shape(all_a)[0], True, False)

    def anchor_loss(anchor, same_view, other_view):
        # Each block is (batch, global_batch); the positive is in the first.
        other = tf.matmul(anchor, other_view, transpose_b=True) / temperature
        same = tf.matmul(anchor, same_view, transpose_b=True) / temperature
        logits = [other, tf.where(itself, same.dtype.min, same)]
        if negatives is not None:
            logits.append(tf.matmul(anchor, negatives, transpose_b=True) / temperature)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(
            rows, tf.concat(logits, axis=1)
        )

    loss_a = anchor_loss(z_a, all_a, all_b)
    loss_b = anchor_loss(z_b, all_b, all_a)
    return 0.5 * (loss_a + loss_b)


def nt_xent_blockwise(
    z_a,
    z_b,
    *,
    temperature=0.1,
    global_a=None,
    global_b=None,
    offset=0,
    negatives=None,
    block_size=1024,
):
    """NT-Xent with memory linear in the batch: value and gradient of `nt_xent`.

    The candidates are visited in blocks, so that at no time more than
    `2 * batch * block_size` similarities exist. Costs one more matrix product than
    `nt_xent`, and has no second derivative.

    Args:
        z_a: as in `nt_xent`.
        z_b: as in `nt_xent`.
        temperature: as in `nt_xent`.
        global_a: as in `nt_xent`.
        global_b: as in `nt_xent`.
        offset: as in `nt_xent`.
        negatives: as in `nt_xent`.
        block_size: int >= 1, candidates per block (both views counted). Larger
            is faster until the block no longer fits the cache.

    Returns:
        float32 tensor `(batch,)`, as `nt_xent`.

    Raises:
        ValueError: as `nt_xent`, or if `block_size < 1`.

    Reference:
        As `nt_xent`, and `blockwise.cross_entropy`.
    """
    checks.whole({"block_size": block_size}, "block_size")
    z_a, z_b, all_a, all_b, negatives = _tensors(
        z_a, z_b, temperature, global_a, global_b, negatives
    )
    candidates = [all_a, all_b] if negatives is None else [all_a, all_b, negatives]
    in_a = offset + tf.range(tf.shape(z_a)[0])  # Rows of the images in all_a.
    in_b = in_a + tf.shape(all_a)[0]
    losses = blockwise.cross_entropy(
        tf.concat([z_a, z_b], axis=0),
        tf.concat(candidates, axis=0),
        itself=tf.concat([in_a, in_b], axis=0),
        positive=tf.concat([in_b, in_a], axis=0),
        temperature=temperature,
        block_size=block_size,
    )
    return 0.5 * tf.add_n(tf.split(losses, 2))


def info_nce(query, positive, negatives, *, temperature=0.07):
    """InfoNCE: cross-entropy of picking the positive out of given negatives.

    With cosine similarity `s`, the loss of row `q` is
    `-log(exp(s(q, k+) / temperature) / (exp(s(q, k+) / temperature) +
    sum_j exp(s(q, k_j) / temperature)))`.

    Args:
        query: float tensor `(batch, dim)`. Need not be normalized.
        positive: `(batch, dim)`, the match of each query.
        negatives: `(num, dim)`, shared by the batch (a queue), or
            `(batch, num, dim)`, each query's own (drawn from a memory bank).
        temperature: Python float > 0. 0.07 in MoCo v1 and PIRL, 0.2 in MoCo v2.

    Returns:
        float32 tensor `(batch,)`, computed in float32 for any input dtype. All
        similarities equal gives `log(num + 1)`.

    Raises:
        ValueError: for a temperature of 0 or less, or shapes that do not fit.

    Reference:
        He et al., 2020, https://arxiv.org/abs/1911.05722, Eq. 1.
    """
    logits = positive_and_negatives(query, positive, negatives, temperature)
    # The positive stands first.
    return tf.reduce_logsumexp(logits, axis=1) - logits[:, 0]


def positive_first(query, positive, negatives):
    """Whether the positive is nearer to the query than every negative.

    Args:
        query: as in `info_nce`.
        positive: as in `info_nce`.
        negatives: as in `info_nce`.

    Returns:
        float32 tensor `(batch,)` of 0 and 1; a tie counts as a hit. A monitor: it
        has no gradient.
    """
    logits = positive_and_negatives(query, positive, negatives, 1.0)
    return tf.cast(tf.argmax(logits, axis=1) == 0, tf.float32)


def positive_and_negatives(query, positive, negatives, temperature):
    """Cosine similarities over the temperature, of which other losses are made.

    Args:
        query: as in `info_nce`.
        positive: as in `info_nce`.
        negatives: as in `info_nce`.
        temperature: as in `info_nce`.

    Returns:
        float32 `(batch, 1 + num)`, the positive first.

    Raises:
        ValueError: as `info_nce`.
    """
    query, positive, negatives = map(tf.convert_to_tensor, (query, positive, negatives))
    checks.positive({"temperature": temperature}, "temperature")
    fits = (
        query.shape.rank == 2
        and query.shape.is_compatible_with(positive.shape)
        and negatives.shape.rank in (2, 3)
        and negatives.shape[-1:].is_compatible_with(query.shape[-1:])
        and (
            negatives.shape.rank == 2
            or negatives.shape[:1].is_compatible_with(query.shape[:1])
        )
    )
    if not fits:
        raise ValueError(
            "query and positive must be (batch, dim) and negatives (num, dim) or "
            f"(batch, num, dim), got {query.shape}, {positive.shape} and "
            f"{negatives.shape}."
        )
    query, positive, negatives = map(unit_norm.unit_rows, (query, positive, negatives))
    own = tf.reduce_sum(query * positive, axis=1, keepdims=True)
    if negatives.shape.rank == 2:
        others = tf.matmul(query, negatives, transpose_b=True)
    else:
        others = tf.linalg.matvec(negatives, query)
    return tf.concat([own, others], axis=1) / temperature


def in_batch_info_nce(query, keys, *, temperature=0.2, global_keys=None, offset=0):
    """InfoNCE whose negatives are the keys of the batch's other images.

    The loss of row `i` is the cross-entropy of picking `keys[i]` among the keys of
    the whole batch by cosine similarity.

    Args:
        query: float tensor `(batch, dim)`. Need not be normalized.
        keys: `(batch, dim)`, the match of each query.
        temperature: Python float > 0. MoCo v3: 1.0 for ResNets, 0.2 for ViTs.
        global_keys: `(global_batch, dim)`, the keys of all replicas stacked, or
            None if `keys` is the whole batch.
        offset: int or int32 scalar, the row of `global_keys` that holds `keys[0]`.

    Returns:
        float32 tensor `(batch,)`. All similarities equal gives
        `log(global_batch)`.

    Raises:
        ValueError: for a temperature of 0 or less, or shapes that do not fit.

    Reference:
        Chen et al., 2021, https://arxiv.org/abs/2104.02057, Algorithm 1, without
        its factor `2 * temperature`, which is the method's.
    """
    query, keys = tf.convert_to_tensor(query), tf.convert_to_tensor(keys)
    candidates = keys if global_keys is None else tf.convert_to_tensor(global_keys)
    checks.positive({"temperature": temperature}, "temperature")
    if (
        query.shape.rank != 2
        or not query.shape.is_compatible_with(keys.shape)
        or candidates.shape.rank != 2
        or not candidates.shape[1:].is_compatible_with(query.shape[1:])
    ):
        raise ValueError(
            "query and keys must be (batch, dim) and global_keys (global_batch, "
            f"dim), got {query.shape}, {keys.shape} and {candidates.shape}."
        )
    logits = tf.matmul(
        unit_norm.unit_rows(query), unit_norm.unit_rows(candidates), transpose_b=True
    )
    rows = offset + tf.range(tf.shape(query)[0])
    return tf.nn.sparse_softmax_cross_entropy_with_logits(rows, logits / temperature)


def match_accuracy(z, candidates, *, offset=0):
    """Whether each row's nearest candidate is its own: the contrastive accuracy.

    A monitor, not a loss: no gradient flows. Ties go to the first candidate.

    Args:
        z: float tensor `(batch, dim)`, embeddings of one view.
        candidates: `(global_batch, dim)`, embeddings of the other view; the match
            of `z[i]` is row `offset + i`.
        offset: int or int32 scalar.

    Returns:
        float32 tensor `(batch,)` of 0 and 1. As in the authors' logs of SimCLR
        the candidates are the other view only, which is easier than the loss.
    """
    similarity = tf.matmul(
        unit_norm.unit_rows(tf.stop_gradient(z)),
        unit_norm.unit_rows(tf.stop_gradient(candidates)),
        transpose_b=True,
    )
    # A GPU compares int64; int32 it would hand to the host, and wait.
    own = tf.cast(offset + tf.range(tf.shape(z)[0]), tf.int64)
    return tf.cast(tf.equal(tf.argmax(similarity, axis=1), own), tf.float32)
