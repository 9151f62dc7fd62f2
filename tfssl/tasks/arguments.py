"""What tasks take: every argument written once, for notebooks and flags alike.

A task's signature gives name, type, bounds and default of an argument, its docstring
the meaning. Arguments that several tasks share stand in groups, frozen dataclasses:

    @arguments.task
    def embed(encoder: Encoder, data: Data, out: Path | None = None, *, images: Images):

is called as `embed(encoder, data, split="train")` and gets an `Images` whose `split` is
`"train"`. The signature and docstring that users see are the flat ones, every value is
checked against its annotation, and the binaries make their flags of the same.

Bounds are `Annotated[int, Range(1)]`, choices `Literal["auto", "none"]`, or, where they
are the keys of a table, `Annotated[str, OneOf(METHODS)]`. In a `Path` a leading `~` is
the home folder.
"""

import collections.abc
import dataclasses
import functools
import inspect
import os
import re
import textwrap
import types
import typing

from tfssl import checks, files
from tfssl.checks import Above, FileName, OneOf, Range

__all__ = [
    "Above",
    "Argument",
    "FileName",
    "OneOf",
    "Path",
    "Range",
    "flat",
    "of",
    "task",
]

Path = str | os.PathLike


@dataclasses.dataclass(frozen=True)
class Argument:
    """One argument of a task.

    Attributes:
        name: str.
        annotation: its type, as written in the signature.
        default: its default, or `inspect.Parameter.empty` if it must be given.
        doc: its text in the docstring, in one line.
        group: name of the parameter whose group it belongs to, or None.
    """

    name: str
    annotation: object
    default: object
    doc: str
    group: str | None = None

    @property
    def required(self):
        return self.default is inspect.Parameter.empty

    @property
    def optional(self):
        """Whether None is a value."""
        return type(None) in self._members

    @property
    def kinds(self):
        """The types that its value may have, without None: `(int, Literal[…])`."""
        return tuple(m for m in self._members if m is not type(None))

    @property
    def _members(self):
        base = self.annotation
        if typing.get_origin(base) is typing.Annotated:
            base = base.__origin__
        if typing.get_origin(base) in (typing.Union, types.UnionType):
            return typing.get_args(base)
        return (base,)

    @property
    def bound(self):
        """What values must keep to (`Range`, `OneOf`, …), or None."""
        return next(iter(getattr(self.annotation, "__metadata__", ())), None)

    def check(self, value):
        """Raises `ValueError` unless `value` is of the type and in the bounds."""
        if value is None and self.optional:
            return
        fitting = [kind for kind in self.kinds if _is(value, kind)]
        bound = self.bound
        if isinstance(bound, OneOf) and not isinstance(value, str):
            bound = None  # The thing itself instead of its name.
        if os.PathLike in self.kinds and isinstance(value, str | os.PathLike):
            checks.path({self.name: value}, self.name)
        if not fitting or (bound is not None and not bound.holds(value)):
            raise checks.refused(self.name, value, self._words(value))

    def _words(self, value):
        """What is expected, for whom gave this value."""
        words = [_WORDS.get(kind) or _word(kind) for kind in self.kinds]
        bound = self.bound
        if bound is None and self.kinds[0] is float and checks.is_number(value):
            bound = _FINITE
        if isinstance(bound, OneOf | FileName):
            words[0] = bound.words(value)
        elif bound is not None:
            words[0] += bound.words(value)
        return " or ".join([*words, *(["None"] if self.optional else [])])


_FINITE = Range(-checks.LARGEST)
_WORDS = {
    **checks.NOUNS,
    bool: "True or False",
    dict: "a dict",
    str: "a text",
    os.PathLike: "a path",
}


def _word(kind):
    if typing.get_origin(kind) is typing.Literal:
        return checks.listed(typing.get_args(kind))
    if typing.get_origin(kind) is collections.abc.Sequence:
        (entry,) = typing.get_args(kind)
        texts = entry is str or str in typing.get_args(entry)
        return f"a list of {'texts' if texts else 'numbers'}"
    return f"a {getattr(kind, '__name__', kind)}"


def _is(value, kind):
    """Whether a value is what an annotation without bounds says."""
    origin = typing.get_origin(kind)
    if kind is typing.Any:
        return True
    if origin is typing.Literal:
        return any(
            value == choice and isinstance(value, type(choice))
            for choice in typing.get_args(kind)
        )
    if origin is collections.abc.Sequence:
        (entry,) = typing.get_args(kind)
        listed = isinstance(value, list | tuple)
        return listed and all(_is(item, entry) for item in value)
    if kind in (int, float):
        return checks.is_number(value, kind) and (kind is int or _FINITE.holds(value))
    return isinstance(value, kind)


def of(function):
    """The arguments of a task, as a tuple of `Argument`, groups taken apart."""
    return function.arguments


def task(function):
    """Makes a task of a function: flat arguments, each of them checked.

    Args:
        function: with an annotation for every parameter; a parameter whose annotation
            is a dataclass is a group.

    Returns:
        The function that users call; `of` gives its arguments.

    Raises:
        TypeError: for a parameter without annotation or without text.
    """
    parameters = _parameters(function)
    flat = inspect.Signature([parameter for parameter, _ in parameters])
    listed = {argument.name: argument for _, argument in parameters}
    groups = {
        name: kind
        for name, kind in inspect.get_annotations(function).items()
        if dataclasses.is_dataclass(kind)
    }

    @functools.wraps(function)
    def checked(*args, **kwargs):
        try:
            bound = flat.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{function.__name__}: {error}") from None
        bound.apply_defaults()
        given, grouped = {}, {name: {} for name in groups}
        for name, value in bound.arguments.items():
            argument = listed[name]
            argument.check(value)
            if os.PathLike in argument.kinds:
                value = files.expanded(value)
            into = given if argument.group is None else grouped[argument.group]
            into[name] = value
        made = {name: groups[name](**values) for name, values in grouped.items()}
        return function(**given, **made)

    checked.__signature__ = flat
    checked.__doc__ = _flat_doc(inspect.getdoc(function) or "", listed.values())
    checked.arguments = tuple(listed.values())
    return checked


def flat(function, given):
    """The arguments of a call as users wrote them, groups taken apart.

    Args:
        function: a task.
        given: dict, its parameters by name, as `locals()` has them at its beginning.
    """
    return {
        argument.name: getattr(given[argument.group], argument.name)
        if argument.group
        else given[argument.name]
        for argument in of(function)
    }


def _parameters(function):
    """`[(inspect.Parameter, Argument)]` of a function, its groups taken apart."""
    found = []
    texts = _texts(inspect.getdoc(function) or "")
    for name, parameter in inspect.signature(function).parameters.items():
        kind = parameter.annotation
        if dataclasses.is_dataclass(kind):
            # A group that is derived from another says what differs.
            docs = [vars(base).get("__doc__") or "" for base in reversed(kind.__mro__)]
            known = {
                k: v for doc in docs for k, v in _texts(inspect.cleandoc(doc)).items()
            }
            for field in dataclasses.fields(kind):
                plain = inspect.Parameter(
                    field.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=field.default,
                    annotation=field.type,
                )
                found.append((plain, _argument(plain, known, function, name)))
        else:
            found.append((parameter, _argument(parameter, texts, function)))
    return found


def _argument(parameter, texts, function, group=None):
    name, kind = parameter.name, parameter.annotation
    if kind is inspect.Parameter.empty or name not in texts:
        raise TypeError(
            f"{function.__name__}({name}) lacks an annotation or a text in the docs."
        )
    return Argument(name, kind, parameter.default, texts[name], group)


_SECTION = re.compile(r"^(Args|Attributes):\n((?:    .*\n|\n)+)", re.MULTILINE)
_ENTRY = re.compile(r"^    (\w+): ((?:.*\n)(?:        .*\n|\n)*)", re.MULTILINE)


def _texts(doc):
    """The entries of a docstring's `Args:` or `Attributes:`: `{name: text}`."""
    section = _SECTION.search(doc + "\n")
    entries = _ENTRY.findall(section[2]) if section else ()
    return {name: " ".join(text.split()) for name, text in entries}


def _flat_doc(doc, listed):
    """A docstring whose `Args:` section lists all of these arguments."""
    entries = [_wrapped(f"{a.name}: {a.doc}") for a in listed]
    section = "Args:\n" + "\n".join(entries) + "\n\n"
    if _SECTION.search(doc + "\n"):
        return _SECTION.sub(lambda _: section, doc + "\n", count=1).rstrip() + "\n"
    return f"{doc}\n\n{section}"


def _wrapped(entry):
    return textwrap.fill(
        entry,
        width=84,
        initial_indent=" " * 4,
        subsequent_indent=" " * 8,
        break_long_words=False,
        break_on_hyphens=False,
    )
