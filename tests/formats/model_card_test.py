"""The card of a served encoder, as a reader of Markdown sees it."""

import shlex

import keras
import markdown_it

from tfssl import data, formats, models
from tfssl.formats import model_card


def card_of(names, multilabel=False, name="pets"):
    images, features = keras.Input((4, 4, 3)), keras.Input((48,))
    encoder = keras.Sequential([images, keras.layers.Flatten()])
    head = keras.Sequential([features, keras.layers.Dense(len(names))])
    preprocessing = data.Preprocessing(size=4)
    classifier = formats.Classifier(
        encoder, head, names, preprocessing=preprocessing, multilabel=multilabel
    )
    return model_card.render(
        encoder,
        preprocessing,
        name=name,
        version=7,
        dim=48,
        pixels="uint8",
        classifier=classifier,
        sections={},
    )


def test_many_classes_are_cut():
    card = card_of([f"class-{i}" for i in range(1000)])
    assert "classifier of 1000 classes" in card and "7/assets/classes.txt" in card
    assert "| 19 | class-19 |\n\nAnd 980 more.\n" in card and "class-20" not in card
    few = card_of([f"class-{i}" for i in range(20)])
    assert "| 19 | class-19 |" in few and "more." not in few


def test_the_card_says_what_a_probability_is():
    plain, multilabel = card_of(["a", "b"]), card_of(["a", "b"], multilabel=True)
    assert "softmax of its logits" in plain and "argmax" in plain
    assert "sigmoid" not in plain and "several" not in plain
    assert "sigmoid of its logit" in multilabel and ">= 0.5" in multilabel
    assert "several or none" in multilabel and "softmax" not in multilabel


def test_the_card_says_which_part_of_an_image_a_mask_is_of():
    network = models.resnet(18, width=1 / 16, stem="cifar", input_shape=(8, 8, 3))
    segmenter = models.Segmenter(network, ("a", "b"), image_size=8, width=16)
    given = dict(name="a", version=1, dim=32, pixels="uint8", sections={})
    for crop, told in (
        (1.0, "of the whole image, "),
        (0.875, "square of the image, 0.8"),
    ):
        made = data.Preprocessing(size=8, crop=crop)
        assert told in model_card.render(segmenter, made, **given)


def test_names_of_classes_do_not_break_the_card():
    evil = "a|b `c` <script> # {{ 7*7 }} $(id)'\""
    card = card_of([evil, "b"], name=evil)
    parsed = markdown_it.MarkdownIt().enable("table").parse(card)
    kinds = [token.type for token in parsed]
    assert not {"html_block", "hr", "code_block"} & set(kinds)
    assert kinds.count("heading_open") == 6 and kinds.count("table_open") == 4
    assert kinds.count("fence") == 3


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
