"""What users get wrong: each line is one mistake and the sentence that answers it.

A row holds a name, a call, the type of the error, and what its message must say: what
was received, and what to do. Calls take the folder `made` of prepared files; nothing
may be written to it or be left in it.
"""

import re

import pytest

from tests.fixtures import (
    mistakes,
    mistakes_of_data,
    mistakes_of_finetuning,
    mistakes_of_pixels,
    mistakes_of_tokens,
    mistakes_of_training,
)

ROWS = [
    *mistakes_of_data.ROWS,
    *mistakes_of_training.ROWS,
    *mistakes_of_finetuning.ROWS,
    *mistakes_of_pixels.ROWS,
    *mistakes_of_tokens.ROWS,
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    mistakes.write(root)
    return root


def _tree(root):
    return {
        str(path.relative_to(root)): path.stat().st_size if path.is_file() else None
        for path in sorted(root.rglob("*"))
    }


def _sentences(message):
    """How many there are; a full stop inside a name or a number ends none."""
    return len(re.findall(r"[.!?](?=\s+[A-Z]|\s*$)", message))


@pytest.mark.parametrize("call, kind, pattern", [r[1:] for r in ROWS],
                         ids=[r[0] for r in ROWS])  # fmt: skip
def test_a_mistake_is_answered_in_one_sentence(made, call, kind, pattern):
    before = _tree(made)
    with pytest.raises(kind) as caught:
        call(made)
    message = str(caught.value)
    assert re.search(pattern, message), message
    assert len(message) < 500 and "\n" not in message, message
    assert _sentences(message) == 1 and message[-1] == ".", message
    assert _tree(made) == before


def test_the_table_is_long_enough_and_has_no_row_twice():
    assert len({row[0] for row in ROWS}) == len(ROWS) >= 170


def test_the_count_of_sentences_can_fail():
    assert _sentences("One is here. Two is there.") == 2
    assert _sentences("x=0.5 of a.csv; give b.") == 1
