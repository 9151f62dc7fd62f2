"""A loss over the neighbours of an embedding in a bank."""

import tensorflow as tf

from tfssl import checks
from tfssl.losses import unit_norm


def local_aggregation(
    query, bank, index, clusters, *, background, temperature=0.07, block_size=65_536
):
    """Local aggregation: how much of the neighbours' probability close ones have.

    With `P(S | q) = sum over j in S of exp(s(q, bank_j) / temperature) / Z` and cosine
    similarity `s`, the loss of a query is `-log(P(C and B | q) / P(B | q))`. B are the
    `background` rows most similar to the query, and its own row; C are the rows that
    share a cluster with its own row in at least one clustering, and the own row. Z
    cancels.

    Args:
        query: float tensor `(batch, dim)`. Need not be normalized.
        bank: float32 `(num, dim)` of unit-norm rows, without gradient.
        index: int64 `(batch,)`, the own row of each query.
        clusters: int64 `(count, num)`, the cluster of every row in each clustering, -1
            for a row without one.
        background: int >= 1, cut to `num`.
        temperature: Python float > 0.
        block_size: int >= 1, rows of the bank whose similarities are held at a time
            while the neighbours are looked for.

    Returns:
        `(losses, hits)`: float32 `(batch,)`, and of 0 and 1 whether the own row is the
        most similar of all. No more than `batch * (block_size + background)`
        similarities and `batch * background` rows exist at a time.

    Raises:
        ValueError: for a temperature of 0 or less, or counts below 1.

    Reference:
        Zhuang et al., 2019, https://arxiv.org/abs/1903.12355, Eq. 3 to 5. There the own
        row is no neighbour if `background` others are nearer.
    """
    given = {"background": background, "block_size": block_size}
    checks.whole(given, *given)
    checks.positive({"temperature": temperature}, "temperature")
    z = unit_norm.unit_rows(query)
    near = _nearest(tf.stop_gradient(z), bank, background, block_size)
    own = tf.cast(index, tf.int64)[:, tf.newaxis]  # (batch, 1)
    chosen = tf.concat([near, own], axis=1)
    logits = tf.linalg.matvec(tf.gather(bank, chosen), z) / temperature
    known = tf.reduce_any(tf.equal(near, own), axis=1, keepdims=True)
    twice = tf.concat([tf.zeros_like(near, tf.bool), known], axis=1)
    logits = tf.where(twice, logits.dtype.min, logits)
    theirs, mine = tf.gather(clusters, chosen, axis=1), tf.gather(clusters, own, axis=1)
    shared = tf.reduce_any(tf.equal(theirs, mine) & (mine >= 0), axis=0)
    close = tf.where(shared | tf.equal(chosen, own), logits, logits.dtype.min)
    losses = tf.reduce_logsumexp(logits, axis=1) - tf.reduce_logsumexp(close, axis=1)
    return losses, tf.cast(tf.equal(near[:, 0], own[:, 0]), tf.float32)


def _nearest(z, bank, count, block_size):
    """int64 `(batch, count)`: the rows most similar to each query, nearest first."""
    total = bank.shape[0]
    count = min(count, total)
    if total <= block_size:
        places = tf.math.top_k(tf.matmul(z, bank, transpose_b=True), count).indices
        return tf.cast(places, tf.int64)

    def visit(number, best, places):
        # The last block begins early; what it has of the one before is left out.
        start = tf.minimum(number * block_size, total - block_size)
        number_of = tf.range(block_size, dtype=tf.int64)[tf.newaxis]
        columns = tf.cast(start, tf.int64) + number_of
        rows = tf.slice(bank, [start, 0], [block_size, -1])
        similar = tf.matmul(z, rows, transpose_b=True)
        seen = columns < tf.cast(number * block_size, tf.int64)
        similar = tf.where(seen, z.dtype.min, similar)
        columns = tf.broadcast_to(columns, tf.shape(similar))
        best, among = tf.math.top_k(tf.concat([best, similar], axis=1), count)
        places = tf.concat([places, columns], axis=1)
        return number + 1, best, tf.gather(places, among, batch_dims=1)

    zeros = tf.zeros_like(z[:, :1]) + tf.zeros([1, count])
    _, _, places = tf.while_loop(
        lambda number, *_: number < -(-total // block_size),
        visit,
        [0, zeros + z.dtype.min, tf.zeros_like(zeros, tf.int64)],
        parallel_iterations=1,
    )
    return places
