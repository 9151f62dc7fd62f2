"""Templates that put data into a text: every value is escaped where it enters.

A room keeps its templates in `templates/` beside its modules. Python passes plain
values to them; only what other code of ours wrote as markup is marked, by `ready`.
"""

import json
import re
import shlex
import urllib.parse

import jinja2
import markupsafe

# What Markdown would read as something else than itself. `_` inside a word, brackets
# without a link and a `&` that begins no entity are left, for who reads the source.
_SPECIAL = re.compile(
    r"""[`*|~$<]
    | (?<![^\W_])_ | _(?![^\W_])
    | \](?=[(\[:])
    | \\(?=[!-/:-@\[-`{-~])
    | &(?=\#?\w+;)""",
    re.VERBOSE,
)
_ENTITIES = {"<": "&lt;", "&": "&amp;"}
# At its beginning a line may also turn into a heading, a list, a quotation or a rule.
_LEADING = re.compile(r"^(\d*)([#>+.)=-])")


def html(package):
    """Templates of a package, for HTML.

    Args:
        package: dotted name of the package that holds the folder `templates`.

    Returns:
        `jinja2.Environment`. A name that a template uses and is not given is an error.
    """
    return _environment(package)


def markdown(package):
    """Templates of a package, for Markdown, and the filters that its cards need.

    A value is put on one line and shown letter for letter, also in a table. A
    float has six digits; lists and dicts are JSON. Filters: `paragraphs` keeps the
    blank lines of a longer text; `shell` and `url` are for blocks of code, a word of
    a command and a part of an address.

    Args:
        package: as for `html`.

    Returns:
        `jinja2.Environment`, as by `html`.
    """
    environment = _environment(package, finalize=_literal)
    environment.filters["paragraphs"] = _paragraphs
    environment.filters["shell"] = _shell_word
    environment.filters["url"] = _url_part
    return environment


def ready(markup):
    """Marks a text that is markup already, so that a template takes it as it is."""
    return markupsafe.Markup(markup)


def _environment(package, **options):
    return jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **options,
    )


def _literal(value):
    """A value as Markdown that shows it letter for letter, on one line."""
    if hasattr(value, "__html__"):
        return value
    if isinstance(value, float):
        value = f"{value:.6g}"
    elif isinstance(value, dict | list | tuple):
        value = json.dumps(value, default=str)
    return ready(_escaped(value))


def _escaped(value):
    def mark(match):
        return _ENTITIES.get(match[0], "\\" + match[0])

    return _SPECIAL.sub(mark, _one_line(value))


def _one_line(value):
    return " ".join(str(value).splitlines())


def _paragraphs(value):
    texts = (text.strip() for text in re.split(r"\n\s*\n", str(value)))
    lines = (_LEADING.sub(r"\1\\\2", _escaped(text)) for text in texts if text)
    return ready("\n\n".join(lines))


def _shell_word(value):
    return ready(shlex.quote(_one_line(value)))


def _url_part(value):
    return ready(urllib.parse.quote(_one_line(value), safe=""))
