"""The card of a served encoder, as a reader of Markdown sees it."""

import shlex

import keras
import markdown_it

from tfssl import data
from tfssl.formats import model_card


def test_names_do_not_break_the_card():
    """Tables keep their shape, and nothing of a name becomes Markdown or HTML."""
    evil = "a|b `c` <script>\n```\n# {{ 7*7 }} $(id)'\""
    encoder = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten()])
    card = model_card.render(
        encoder,
        data.Preprocessing(size=4),
        name=evil,
        version=1,
        dim=3,
        pixels="uint8",
        sections={
            "plain": {"key": "value"},
            evil: {evil: evil},
            "rows": [{evil: evil, "x": 1}, {"y": [evil]}],
            "text": evil,
        },
    )
    parsed = markdown_it.MarkdownIt().enable("table").parse(card)
    kinds = [token.type for token in parsed]
    assert not {"html_block", "hr", "code_block"} & set(kinds)
    assert kinds.count("heading_open") == 1 + 4 + 4  # Title, ours, the sections'.
    assert kinds.count("fence") == 2 and kinds.count("table_open") == 6
    inside = {child.type for token in parsed for child in token.children or ()}
    assert inside == {"text", "softbreak", "code_inline"}
    (command,) = (t.content for t in parsed if t.type == "fence" and t.info == "sh")
    words = shlex.split(command)
    assert f"MODEL_NAME={' '.join(evil.splitlines())}" in words
