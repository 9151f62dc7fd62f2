"""What comes every so many training steps."""


class Due:
    """Counts the multiples of a number of steps that a training passes.

    A batch of `fit` is one step, or up to `steps_per_execution` (the data may end among
    them). The device, which knows how many they were, is asked only where a multiple
    may be among them: each question waits for it.

    Args:
        *every: ints >= 1.
    """

    def __init__(self, *every):
        self._every = every
        self._known = self._at_most = 0

    def begin(self, model):
        """Counts from where a `Method` stands, before its first batch."""
        self._known = self._at_most = int(model.step.numpy())

    def after_batch(self, model):
        """How many multiples of each number lie among the steps since the last call.

        Args:
            model: a `Method`, after a batch of `fit`.

        Returns:
            List of ints, in the order of `every`.
        """
        self._at_most += model.steps_per_execution
        if all(self._at_most // n == self._known // n for n in self._every):
            return [0] * len(self._every)
        before, self._known = self._known, self._at_most
        if model.steps_per_execution > 1:
            self.begin(model)
        return [self._known // n - before // n for n in self._every]
