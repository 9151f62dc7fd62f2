"""What a value looks like after a template, read back as its readers read it."""

import html.parser
import shlex
import sys

import jinja2
import markdown_it
import pytest

from tfssl import templates

_HOSTILE = [
    "a|b || c\\|d |",
    "`x` ``y``` \\`",
    "<script>alert(1)</script> <!-- <http://x>",
    "[x](javascript:alert(1)) ![x][y] [a]: b",
    "**b** *c* _d_ __e__ ~~f~~ $g$ snake_case 2*3*4",
    "&lt; &amp; &#60; R&D &copy;",
    "C:\\data\\ ends\\",
    "# h - l 1. n > q --- ===",
    "{{ 7*7 }} {% raw %} {# c #}",
    '"\'"',
]


@pytest.fixture
def made(tmp_path, monkeypatch):
    """`made(room, template, **values)`: the text of a template in a package."""
    package = tmp_path / "room_of_templates"
    (package / "templates").mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, package.name, raising=False)

    def make(room, template, **values):
        (package / "templates" / "t").write_text(template)
        return room(package.name).get_template("t").render(**values)

    return make


def read(card):
    """Tags of a card as a browser gets them, and the texts between them."""
    page = markdown_it.MarkdownIt().enable(["table", "strikethrough"]).render(card)
    tags, texts = [], []
    parser = html.parser.HTMLParser()
    parser.handle_starttag = lambda tag, _: tags.append(tag)
    parser.handle_data = texts.append
    parser.feed(page)
    return tags, [text for text in texts if text.strip()]


@pytest.mark.parametrize("value", _HOSTILE)
def test_a_cell_of_markdown_shows_a_value_letter_for_letter(made, value):
    table = "| a | b |\n| --- | --- |\n| {{ value }} | end |\n"
    tags, texts = read(made(templates.markdown, table, value=value))
    assert tags == ["table", "thead", "tr", "th", "th", "tbody", "tr", "td", "td"]
    assert texts == ["a", "b", value, "end"]


def test_cells_of_numbers_lists_and_lines(made):
    for value, text in (
        (0.123456789, "0.123457"),
        (3, "3"),
        (None, "None"),
        ([128, [1, 2]], "[128, [1, 2]]"),
        ({"a": "b|c"}, '{"a": "b\\|c"}'),
        ("a\nb\r\nc\u2028d", "a b c d"),
        ("", ""),
    ):
        assert made(templates.markdown, "{{ value }}", value=value) == text


@pytest.mark.parametrize("value", _HOSTILE)
def test_paragraphs_are_text_whatever_they_begin_with(made, value):
    for lead in ("", "# ", "- ", "+ ", "1. ", "12) ", "> ", "---", "    ", "```\n"):
        text = f"{lead}{value}\n\n{value}"
        card = made(templates.markdown, "{{ text|paragraphs }}", text=text)
        tags, texts = read(card)
        assert tags == ["p", "p"]
        assert " ".join(texts).split() == text.split()


@pytest.mark.parametrize("value", _HOSTILE)
def test_words_of_a_shell_and_parts_of_an_address(made, value):
    line = "run {{ value|shell }} x{{ value|url }}"
    command = made(templates.markdown, line, value=value + "\n```")
    assert "\n" not in command
    run, word, part = shlex.split(command)
    assert word == value + " ```"
    assert not set(part) & set(" /:?#&'\"`$\\")


def test_html_escapes_what_is_not_ready(made):
    text = "{{ value }}{{ ready }}"
    page = made(templates.html, text, value="<b>\"'", ready=templates.ready("<i>"))
    assert page == "&lt;b&gt;&#34;&#39;<i>"


@pytest.mark.parametrize("room", [templates.html, templates.markdown])
def test_a_name_without_a_value_is_an_error(made, room):
    with pytest.raises(jinja2.UndefinedError, match="'missing' is undefined"):
        made(room, "{{ missing }}")
