"""The model card: what a served encoder is, takes, gives, and how good it is."""

import re

from tfssl import models, templates
from tfssl.models import copying

# Of a card that a later export may replace. Readers of Markdown do not show it.
MARKER = "[//]: # (Written by tfssl, which replaces it; without this line it stays.)"
_LAST_OF_OURS = re.compile("^## (Encoder|Tokenizer)$", re.MULTILINE)
_TEMPLATES = templates.markdown("tfssl.formats")
_SHOWN = 20  # Classes that the card names.


def render(
    encoder, preprocessing, *, name, version, dim, pixels, sections, classifier=None
):
    """The card as Markdown text.

    Args:
        encoder: the exported Keras model.
        preprocessing: its `data.Preprocessing`.
        name: model name.
        version: int, the version just written.
        dim: features per image.
        pixels: dtype name of decoded pixels.
        sections: dict of title to a value, a dict, or a list of row dicts. All of it
            is shown letter for letter, none of it is read as Markdown. Or the text of
            another card, whose sections are taken over as they are.
        classifier: the `Classifier` that this is the encoder of, or None.

    Returns:
        str, Markdown, with `MARKER` as its last line.
    """
    taken_over = ""
    if isinstance(sections, str):
        sections, taken_over = {}, _sections_of(sections)
    kind, given = "model_card", {}
    if isinstance(encoder, models.Tokenizer):
        kind, given = "tokenizer_card", {"settings": _pairs(encoder.settings)}
    text = _TEMPLATES.get_template(f"{kind}.md.jinja").render(
        **given,
        name=name,
        version=version,
        dim=dim,
        pixels=pixels,
        size=preprocessing.size,
        channels=preprocessing.channels,
        preprocessing=_pairs(preprocessing.get_config()),
        encoder=_pairs(
            {
                "class": type(encoder).__name__,
                "name": encoder.name,
                "parameters": f"{encoder.count_params():,}",
                "computes in": copying.policy_of(encoder),
            }
        ),
        classes=None if classifier is None else _classes(classifier),
        pixel_classes=_pixel_classes(encoder, preprocessing.crop),
        sections=[
            _section(str(title).replace("_", " ").capitalize(), content)
            for title, content in sections.items()
            if content
        ],
    )
    parts = (text, taken_over, MARKER)
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _sections_of(card):
    """What follows in a card on that which an export says of itself."""
    last = _LAST_OF_OURS.search(card)
    if last is None:
        return ""
    _, heading, found = card[last.end() :].partition("\n## ")
    return (heading + found).replace(MARKER, "")


def _classes(classifier):
    names = classifier.class_names
    shown = names[:_SHOWN]
    return {
        "count": len(names),
        "multilabel": classifier.multilabel,
        "table": {"columns": ["column", "class"], "rows": list(enumerate(shown))},
        "more": len(names) - len(shown),
    }


def _pixel_classes(encoder, crop):
    if not isinstance(encoder, models.Segmenter):
        return None
    rows = list(enumerate(encoder.class_names))
    table = {"columns": ["value", "class"], "rows": rows}
    return {"count": len(rows), "crop": crop, "table": table}


def _section(title, content):
    if isinstance(content, dict):
        return {"title": title, "table": _pairs(content)}
    if isinstance(content, list | tuple) and all(isinstance(r, dict) for r in content):
        columns = list(dict.fromkeys(key for row in content for key in row))
        rows = [[row.get(column, "") for column in columns] for row in content]
        return {"title": title, "table": {"columns": columns, "rows": rows}}
    return {"title": title, "table": None, "text": content}


def _pairs(content):
    return {"columns": ["name", "value"], "rows": list(content.items())}
