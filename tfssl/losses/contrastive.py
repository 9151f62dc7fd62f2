"""Contrastive losses: an image's other view against the rest of a batch.

Pure functions of tensors, computed in float32 for any input dtype, with one
result per image. They know nothing of replicas: a caller on several replicas
gathers the embeddings itself and passes them in.
"""

import tensorflow as tf

from tfssl import checks
from tfssl.losses import unit_norm


def _check(z_a, z_b, temperature, global_a, global_b):
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
    if global_a is not None and not z_a.shape[1:].is_compatible_with(
        global_a.shape[1:]
    ):
        raise ValueError(
            "z_a and global_a must have the same last dimension, got shapes "
            f"{z_a.shape} and {global_a.shape}."
        )


def _tensors(z_a, z_b, temperature, global_a, global_b):
    """Checked arguments as tensors, with the local batch for missing globals."""
    z_a, z_b = tf.convert_to_tensor(z_a), tf.convert_to_tensor(z_b)
    if global_a is not None:
        global_a = tf.convert_to_tensor(global_a)
    if global_b is not None:
        global_b = tf.convert_to_tensor(global_b)
    _check(z_a, z_b, temperature, global_a, global_b)
    z_a, z_b = unit_norm.unit_rows(z_a), unit_norm.unit_rows(z_b)
    all_a = z_a if global_a is None else unit_norm.unit_rows(global_a)
    all_b = z_b if global_b is None else unit_norm.unit_rows(global_b)
    return z_a, z_b, all_a, all_b


def nt_xent(z_a, z_b, *, temperature=0.1, global_a=None, global_b=None, offset=0):
    """NT-Xent: cross-entropy of picking an image's other view out of a batch.

    Row `i` of `z_a` and row `i` of `z_b` embed two views of one image. With
    cosine similarity `s`, the loss of anchor `u = z_a[i]` is
    `-log(exp(s(u, z_b[i]) / temperature) / sum_v exp(s(u, v) / temperature))`,
    `v` running over all rows of both views except `u` itself. Stateless, and
    blind to `tf.distribute`: a caller on several replicas gathers for itself.

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

    Returns:
        float32 tensor `(batch,)`: per image, the mean over its two anchors.
        Not reduced over the batch: the caller owns mean, weights and replica
        scaling. Computed in float32 for any input dtype, so that
        `exp(1 / temperature)` cannot overflow under `mixed_float16`.

    Raises:
        ValueError: if `temperature <= 0`, if `z_a` and `z_b` are not rank 2 or
            differ in shape, if only one of `global_a`, `global_b` is given, or
            if their dimension is another one.

    Reference:
        Chen et al., 2020, https://arxiv.org/abs/2002.05709, Eq. 1. The mean
        over both anchors matches the paper's Algorithm 1; the authors' code
        (google-research/simclr, tf2/objective.py) adds them: twice this value.

    Example:
        >>> z = tf.ones((4, 8))  # All alike: a choice of 2 * 4 - 1, log(7).
        >>> round(float(nt_xent(z, z)[0]), 4)
        1.9459
    """
    z_a, z_b, all_a, all_b = _tensors(z_a, z_b, temperature, global_a, global_b)
    rows = offset + tf.range(tf.shape(z_a)[0])  # (batch,), also the labels.
    itself = tf.one_hot(rows, tf.shape(all_a)[0], True, False)

    def anchor_loss(anchor, same_view, other_view):
        # Each block is (batch, global_batch); the positive is in the first.
        other = tf.matmul(anchor, other_view, transpose_b=True) / temperature
        same = tf.matmul(anchor, same_view, transpose_b=True) / temperature
        logits = tf.concat([other, tf.where(itself, same.dtype.min, same)], 1)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(rows, logits)

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
    block_size=1024,
):
    """NT-Xent with memory linear in the batch: value and gradient of `nt_xent`.

    The candidates are visited in blocks, so that at no time more than
    `2 * batch * block_size` similarities exist; the forward pass keeps a running
    log-sum-exp, the backward pass computes the similarities again. Costs one
    more matrix product than `nt_xent`, and has no second derivative.

    Args:
        z_a: as in `nt_xent`.
        z_b: as in `nt_xent`.
        temperature: as in `nt_xent`.
        global_a: as in `nt_xent`.
        global_b: as in `nt_xent`.
        offset: as in `nt_xent`.
        block_size: int >= 1, candidates per block (both views counted). Larger
            is faster until the block no longer fits the cache.

    Returns:
        float32 tensor `(batch,)`, as `nt_xent`.

    Raises:
        ValueError: as `nt_xent`, or if `block_size < 1`.

    Reference:
        As `nt_xent`. The running log-sum-exp is that of Milakov & Gimelshein,
        2018, https://arxiv.org/abs/1805.02867, Algorithm 3.
    """
    checks.whole({"block_size": block_size}, "block_size")
    z_a, z_b, all_a, all_b = _tensors(z_a, z_b, temperature, global_a, global_b)
    in_a = offset + tf.range(tf.shape(z_a)[0])  # Rows of the images in all_a.
    in_b = in_a + tf.shape(all_a)[0]
    losses = _blockwise_cross_entropy(
        tf.concat([z_a, z_b], axis=0),
        tf.concat([all_a, all_b], axis=0),
        itself=tf.concat([in_a, in_b], axis=0),
        positive=tf.concat([in_b, in_a], axis=0),
        temperature=temperature,
        block_size=block_size,
    )
    return 0.5 * tf.add_n(tf.split(losses, 2))


def _blockwise_cross_entropy(
    anchors, candidates, *, itself, positive, temperature, block_size
):
    """Cross-entropy of choosing `positive` among all candidates but `itself`.

    `anchors` `(n, dim)`, `candidates` `(m, dim)`, `itself` and `positive` int32
    `(n,)` rows of `candidates`. Returns `(n,)`.
    """

    @tf.custom_gradient
    def cross_entropy(anchors, candidates):
        shape = tf.shape(candidates)
        num_blocks = (shape[0] + block_size - 1) // block_size
        padding = num_blocks * block_size - shape[0]
        padded = tf.pad(candidates, [[0, padding], [0, 0]])
        blocks = tf.reshape(padded, [num_blocks, block_size, shape[1]])

        def block_logits(i):
            """Logits `(n, block_size)` of block `i`, and its columns' numbers."""
            columns = i * block_size + tf.range(block_size)[tf.newaxis]
            logits = tf.matmul(anchors, blocks[i], transpose_b=True) / temperature
            absent = (columns >= shape[0]) | (columns == itself[:, tf.newaxis])
            return tf.where(absent, logits.dtype.min, logits), columns

        def add_block(i, largest, total):
            logits, _ = block_logits(i)
            new = tf.maximum(largest, tf.reduce_max(logits, axis=1))
            added = tf.reduce_sum(tf.exp(logits - new[:, tf.newaxis]), axis=1)
            return i + 1, new, total * tf.exp(largest - new) + added

        zeros = tf.zeros_like(anchors[:, 0])
        _, largest, total = tf.while_loop(
            lambda i, *_: i < num_blocks,
            add_block,
            [0, zeros + anchors.dtype.min, zeros],
            # The logits do not depend on the round before: without this,
            # TensorFlow computes ten blocks at a time.
            parallel_iterations=1,
        )
        log_total = largest + tf.math.log(total)
        chosen = tf.gather(candidates, positive)
        logit = tf.reduce_sum(anchors * chosen, axis=1) / temperature

        def gradient(upstream):
            scale = (upstream / temperature)[:, tf.newaxis]

            def block_gradient(i, to_anchors, to_blocks):
                logits, columns = block_logits(i)
                share = tf.exp(logits - log_total[:, tf.newaxis])
                target = tf.cast(columns == positive[:, tf.newaxis], share.dtype)
                slope = scale * (share - target)
                to_anchors += tf.matmul(slope, blocks[i])
                to_block = tf.matmul(slope, anchors, transpose_a=True)
                return i + 1, to_anchors, to_blocks.write(i, to_block)

            _, to_anchors, to_blocks = tf.while_loop(
                lambda i, *_: i < num_blocks,
                block_gradient,
                [
                    0,
                    tf.zeros_like(anchors),
                    tf.TensorArray(
                        anchors.dtype,
                        size=num_blocks,
                        element_shape=[block_size, anchors.shape[1]],
                    ),
                ],
                parallel_iterations=1,
            )
            to_candidates = to_blocks.concat()[: shape[0]]
            return to_anchors, tf.ensure_shape(to_candidates, candidates.shape)

        return log_total - logit, gradient

    return cross_entropy(anchors, candidates)


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
    logits = _logits(query, positive, negatives, temperature)
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
    logits = _logits(query, positive, negatives, 1.0)
    return tf.cast(tf.argmax(logits, axis=1) == 0, tf.float32)


def _logits(query, positive, negatives, temperature):
    """Similarities over the temperature, `(batch, 1 + num)`, the positive first."""
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
    own = offset + tf.range(tf.shape(z)[0])
    nearest = tf.argmax(similarity, axis=1, output_type=tf.int32)
    return tf.cast(tf.equal(nearest, own), tf.float32)
