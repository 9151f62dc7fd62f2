"""Writes docs/api.md from the docstrings: `make docs`. A test holds it fresh."""

import enum
import inspect
import pathlib
import re
import sys
import types

PATH = pathlib.Path(__file__).with_name("api.md")
_BEGIN = """# tfssl, name by name
Made from the docstrings by `make docs`; do not edit. The functions that come first are
the tasks. Each but those that load is a binary of the same name too, `tfssl-NAME`,
whose flags are its arguments.
"""


def text(package):
    """The whole page for a package, by its `__all__` and those of its rooms."""
    tasks, rooms = [], []
    for name in package.__all__:
        found = getattr(package, name)
        full = f"{package.__name__}.{name}"
        if isinstance(found, types.ModuleType):
            rooms += [f"## {full}\n{_doc(found)}\n", *_room(full, found)]
        elif callable(found):
            tasks += _entry(2, full, found)
    return "\n".join([_BEGIN, *tasks, *rooms])


def _room(full, room):
    parts, classes = [], {}
    for name in getattr(room, "__all__", ()):
        found = getattr(room, name)
        first = classes.setdefault(found, name) if inspect.isclass(found) else name
        if first != name:
            parts.append(f"### {full}.{name}\nA short name of `{full}.{first}`.\n")
            continue
        if isinstance(found, types.ModuleType):
            parts.append(f"### {full}.{name}\nA module. {_doc(found)}\n")
        elif callable(found):
            parts += _entry(3, f"{full}.{name}", found)
        elif isinstance(found, dict):
            parts.append(f"### {full}.{name}\nA dict with {', '.join(found)}.\n")
    return parts


def _entry(level, full, found):
    heading = f"{'#' * level} {full}"
    return [f"{heading}\n```python\n{_call(full, found)}\n```\n", _block(found), ""]


def _call(full, found):
    """The signature, an argument a line where it is long."""
    try:
        parameters = inspect.signature(found).parameters.values()
    except ValueError:  # Of an extension type.
        return full
    words, keyword_only = [], False
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            words.append("*")
        keyword_only |= parameter.kind is parameter.VAR_POSITIONAL
        words.append(_parameter(parameter))
    name = full.rpartition(".")[2]
    line = f"{name}({', '.join(words)})"
    if len(line) <= 88:
        return line
    return "\n".join([f"{name}(", *map(_line, words), ")"])


def _line(word):
    line = f"    {word},"
    head, _, entries = word.partition("=(")
    if len(line) <= 88 or not entries:
        return line
    entries = (f"        {entry}," for entry in entries.rstrip("),").split(", "))
    return "\n".join([f"    {head}=(", *entries, "    ),"])


def _parameter(parameter):
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}
    word = stars.get(parameter.kind, "") + parameter.name
    if parameter.default is parameter.empty:
        return word
    default = parameter.default
    if inspect.isroutine(default) or inspect.isclass(default):
        return f"{word}={default.__name__}"
    if isinstance(default, enum.Enum):
        return f"{word}={default}"
    text = re.sub(r" at 0x[0-9a-f]+", "", repr(default))  # Of objects, the address.
    if '"' not in text:
        text = text.replace("'", '"')
    return f"{word}={text}"


def _block(found):
    doc = _doc(found)
    first, _, rest = doc.partition("\n")
    if not rest.strip():
        return first
    return f"{first}\n\n```text\n{rest.strip(chr(10))}\n```"


def _doc(found):
    return inspect.getdoc(found) or ""


def main():
    """Writes the page."""
    sys.path.insert(0, str(PATH.parents[1]))
    import tfssl

    PATH.write_text(text(tfssl))


if __name__ == "__main__":
    main()
