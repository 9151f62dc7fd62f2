"""How far each replica has come in the stream of training images."""

import tensorflow as tf

from tfssl import replicas


class Reached:
    """The stream position of each replica's next image.

    They part by unreadable images: every worker passes over its own, and what follows
    moves up in its own rows. Made under the strategy of the training.

    Args:
        position: int64 variable of the model, the furthest of them.
    """

    def __init__(self, position):
        self._position = position
        self._each = None
        if replicas.num_replicas() > 1:
            self._each = tf.Variable(
                tf.zeros([replicas.num_replicas()], tf.int64), trainable=False
            )

    def advance(self, positions):
        """Takes note of a batch, in a step on each replica.

        Args:
            positions: int64 `(batch,)`, those of the replica's images.
        """
        following = tf.reduce_max(positions)[tf.newaxis] + 1
        each, _ = replicas.gather_rows(following)
        if self._each is not None:
            self._each.assign(each)
        self._position.assign(tf.reduce_max(each))

    def start(self, shard):
        """The `start` of `data.multiview` for the worker of a `shard`, an int.

        Where the places of this many replicas are not known, it is the furthest.
        """
        worker, workers = shard
        each, furthest = self.each(), int(self._position.numpy())
        if max(each) != furthest:
            return furthest
        count = len(each) // workers
        return max(each[worker * count : (worker + 1) * count])

    def each(self):
        """List of ints, one per replica."""
        places = self._position if self._each is None else self._each
        return places.numpy().reshape(-1).tolist()

    def restore(self, each):
        """Takes what `each` gave, or None; nothing of another number of replicas."""
        if self._each is not None and each and len(each) == len(self.each()):
            self._each.assign(each)
