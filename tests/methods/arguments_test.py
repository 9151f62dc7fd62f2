import numpy as np
import pytest

from tfssl.methods import arguments


@pytest.mark.parametrize(
    "check, good, bad",
    [
        (arguments.whole, (1, 5, np.int64(2)), (0, -1, 1.0, "3", None)),
        (arguments.positive, (1, 0.1, np.float32(2)), (0, -0.1, float("nan"), "1")),
        (arguments.not_negative, (0, 0.1, 3), (-1, float("nan"), None, (1,))),
    ],
)
def test_numbers_in_range(check, good, bad):
    for value in good:
        check({"k": value, "other": None}, "k")
    for value in bad:
        with pytest.raises(ValueError, match="^k=.* received, expected .*(above|more)"):
            check({"k": value}, "k")


def test_least():
    arguments.whole({"queue_size": 0}, "queue_size", least=0)
    with pytest.raises(ValueError, match="queue_size=-1 .* a whole number, 0 or more"):
        arguments.whole({"queue_size": -1}, "queue_size", least=0)
