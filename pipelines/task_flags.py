"""Flags of a task, made of its signature and docstring.

Every argument becomes the flag of its name: `int` and `float` become numbers, `bool`
becomes `--name` and `--noname`, a `Literal` or a `OneOf` a choice, a sequence values
with commas between them, a dict `hparams` the repeatable `--hparam=name=value`. The
help is the first sentence of the argument's text. Bounds are checked by the task.
"""

import collections.abc
import re
import sys
import typing

from absl import flags

from pipelines import command
from tfssl.tasks import arguments


def define(task, module, *, skip=(), needed=None, flag_values=flags.FLAGS):
    """Defines a flag for every argument of a task that has a form as text.

    Args:
        task: a function made by `arguments.task`.
        module: name of the binary's module, whose flags `--help` lists.
        skip: names of arguments without a flag.
        needed: names of flags that must be given; None is what the task needs.
        flag_values: where to define them.

    Returns:
        Function without arguments that gives the arguments by the flags' values.
    """
    readers = {}
    if needed is None:
        needed = [a.name for a in arguments.of(task) if a.required]
    for argument in arguments.of(task):
        if argument.name in skip:
            continue
        flag, read = _flag(argument)
        flags.DEFINE_flag(flag, flag_values, module_name=module)
        # An installed command is started by a script of another name.
        flag_values.register_key_flag_for_module(sys.argv[0], flag)
        if argument.name in needed:
            flags.mark_flag_as_required(flag.name, flag_values)
        readers[argument.name] = (flag, read)

    return lambda: {name: read(flag.value) for name, (flag, read) in readers.items()}


def _flag(argument):
    """`(absl flag, function of its value -> the argument's value)`."""
    name, text = argument.name, _help(argument.doc)
    default = None if argument.required else argument.default
    if isinstance(argument.bound, arguments.OneOf):
        return _choice_flag(name, default, text, argument.bound.names)
    parser, serializer = flags.ArgumentParser(), flags.ArgumentSerializer()
    for kind in argument.kinds:
        if kind is dict:
            return _pairs_flag(name.removesuffix("s"), text)
        if typing.get_origin(kind) is collections.abc.Sequence:
            return _list_flag(name, default, text, *typing.get_args(kind))
        if kind is bool and len(argument.kinds) > 1:
            return command.Switch(name, default, text), _same
        if typing.get_origin(kind) is typing.Literal:
            return _choice_flag(name, default, text, typing.get_args(kind))
        if kind is bool:
            return flags.BooleanFlag(name, default, text), _same
        if kind in (int, float):
            parser = flags.IntegerParser() if kind is int else flags.FloatParser()
            return flags.Flag(parser, serializer, name, default, text), _same
    nothing = argument.optional or (default is None and not argument.required)
    read = (lambda value: value or None) if nothing else _same
    return flags.Flag(parser, serializer, name, default, text), read


def _same(value):
    return value


def _choice_flag(name, default, text, choices):
    known = {str(choice): choice for choice in choices}
    flag = flags.EnumFlag(
        name, None if default is None else str(default), text, list(known)
    )
    return flag, known.get


def _pairs_flag(name, text):
    parser, serializer = flags.ArgumentParser(), flags.ArgumentSerializer()
    text = f"{text} (name=value; repeatable)"
    flag = flags.MultiFlag(parser, serializer, name, None, text)
    return flag, lambda items: command.pairs(items, name)


def _list_flag(name, default, text, entry):
    if default is not None:
        default = [str(item) for item in default]
    parser = flags.ListParser()
    flag = flags.Flag(parser, flags.ListSerializer(","), name, default, text)
    if entry is str or str in typing.get_args(entry):
        return flag, lambda texts: None if texts is None else tuple(texts)
    return flag, lambda texts: command.numbers(texts, name)


def _help(doc):
    """The first sentence of an argument's text."""
    first = re.split(r"(?<=[^.])\.(?=\s|$)", doc, maxsplit=1)[0]
    return first[:1].upper() + first[1:] + "."
