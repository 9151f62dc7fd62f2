"""Cross-entropy among very many candidates, with memory linear in their number."""

import tensorflow as tf


def cross_entropy(anchors, candidates, *, itself, positive, temperature, block_size):
    """Cross-entropy of choosing `positive` among all candidates but `itself`.

    The candidates are visited in blocks, so that at no time more than
    `n * block_size` logits exist: the forward pass keeps a running log-sum-exp, the
    backward pass computes the logits again.

    Args:
        anchors: float32 tensor `(n, dim)`.
        candidates: float32 `(m, dim)`.
        itself: integers `(n,)`, the row of `candidates` that each anchor leaves out,
            -1 for none.
        positive: integers `(n,)`, the row that it should choose.
        temperature: float > 0, which the products are divided by.
        block_size: int >= 1, candidates per block.

    Returns:
        float32 `(n,)`, without a second derivative.

    Reference:
        Milakov & Gimelshein, 2018, https://arxiv.org/abs/1805.02867, Algorithm 3 (the
        running log-sum-exp).
    """
    # int64: a GPU would hand comparisons of int32 to the host.
    itself, positive = (tf.cast(rows, tf.int64) for rows in (itself, positive))

    @tf.custom_gradient
    def in_blocks(anchors, candidates):
        shape = tf.shape(candidates)
        count = tf.cast(shape[0], tf.int64)
        num_blocks = (shape[0] + block_size - 1) // block_size
        padding = num_blocks * block_size - shape[0]
        padded = tf.pad(candidates, [[0, padding], [0, 0]])
        blocks = tf.reshape(padded, [num_blocks, block_size, shape[1]])

        def block_logits(i):
            """Logits `(n, block_size)` of block `i`, and its columns' numbers."""
            first = tf.cast(i * block_size, tf.int64)
            columns = first + tf.range(block_size, dtype=tf.int64)[tf.newaxis]
            logits = tf.matmul(anchors, blocks[i], transpose_b=True) / temperature
            absent = (columns >= count) | (columns == itself[:, tf.newaxis])
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

    return in_blocks(anchors, candidates)
