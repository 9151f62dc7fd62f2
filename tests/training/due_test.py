import numpy as np
import pytest

from tfssl.training import due


class Model:
    """A method's step, which counts how often it is asked."""

    def __init__(self, steps_per_execution, step=0):
        self.steps_per_execution = steps_per_execution
        self.step, self.at, self.asked = self, step, 0

    def numpy(self):
        self.asked += 1
        return np.int64(self.at)


def passed(model, numbers, batches):
    """What is told after each batch of so many steps."""
    counts = due.Due(*numbers)
    counts.begin(model)
    found = []
    for steps in batches:
        model.at += steps
        found.append(counts.after_batch(model))
    return found


@pytest.mark.parametrize("numbers", [(1,), (3,), (5, 4), ()])
@pytest.mark.parametrize(
    "most, batches",
    [(1, [1] * 20), (4, [4] * 8), (4, [4, 2, 4, 4, 1, 4, 3, 4]), (7, [7, 7, 5, 7])],
)
def test_every_multiple_is_passed_once(most, batches, numbers):
    for start in (0, 2, 12):
        ends = np.cumsum([start, *batches])
        expected = [[b // n - a // n for n in numbers] for a, b in zip(ends, ends[1:])]
        assert passed(Model(most, start), numbers, batches) == expected


def test_the_device_is_asked_where_it_matters():
    one = Model(1)
    passed(one, (5, 1), [1] * 20)
    assert one.asked == 1  # At the beginning.
    several = Model(4)
    passed(several, (20,), [4] * 10)
    assert several.asked == 3
