"""How every binary runs: flags in, one call, one clear sentence on bad input."""

import ast
import os
import sys
import traceback

import tensorflow as tf
from absl import app, flags, logging

from tfssl import files, processor
from tfssl.training import checkpoint, monitors, saving, stalls, strategy, workers

_FAILED_EXIT, _USAGE_EXIT = 1, 2
INTERRUPTED = "Interrupted.", 130  # What is said; what a shell reports for SIGINT.
_OURS = tuple(
    os.path.dirname(os.path.abspath(file)) + os.sep
    for file in (__file__, files.__file__)
)
_TO_SEE_MORE = "TFSSL_TRACEBACK=1 shows where"
_BUG = (
    "This is a bug of tfssl, or of code that it was given: please report it with the "
    "lines above."
)


def run(main, *, only_input=False):
    """Parses the flags and calls `main()`; user errors end in one line.

    Exit codes: 0 done, 2 bad input (one sentence on stderr), 75 preempted after
    saving, or another worker lost (start the same command again, on all workers),
    130 Ctrl-C (a training has saved, if it says so), 1 a stopped training, or storage
    or memory that gave out (one sentence), or a bug (its traceback). With
    TFSSL_TRACEBACK=1 in the environment every error has one.

    Args:
        main: function without arguments.
        only_input: bool, whether the CPU has nothing to do but views; so it is on a
            machine with a GPU or TPU in any case.
    """

    def guarded(argv):
        if len(argv) > 1:
            said = f"unexpected arguments {argv[1:]}, expected flags, --name=value."
            sys.exit(_said(said, _USAGE_EXIT))
        if not flags.FLAGS["verbosity"].present:
            # TensorFlow's own messages are many, and few are for users.
            logging.set_verbosity(logging.WARNING)
            tf.get_logger().setLevel("ERROR")
        try:
            if only_input or processor.accelerators():
                processor.one_thread_an_operation()
            main()
        except saving.Preempted as stop:
            if isinstance(stop, stalls.InputLost):
                stalls.leave(stop.message, stop.code)
            print(stop.message, file=sys.stderr, flush=True)
            raise
        except KeyboardInterrupt as stop:
            said, code = INTERRUPTED
            print(str(stop) or said, file=sys.stderr)
            sys.exit(code)
        except workers.WorkerLost as error:
            sys.exit(_said(error, saving.Preempted.EXIT_CODE))
        except (monitors.TrainingStopped, checkpoint.SaveError) as error:
            sys.exit(_said(error, _FAILED_EXIT))
        except Exception as error:
            if os.environ.get("TFSSL_TRACEBACK"):
                raise
            sentence, code = explained(error)
            if sentence is None:
                error.add_note(_BUG)
                raise
            sys.exit(_said(sentence, code))

    app.run(guarded, flags_parser=_parsed)


def _parsed(argv):
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        sys.exit(_said(f"{error} (--helpshort lists all flags)", _USAGE_EXIT))


def explained(error):
    """One sentence for an error and its exit code; None for what must be a bug."""
    if isinstance(error, ValueError):
        return _refusal(error), _USAGE_EXIT
    if isinstance(error, MemoryError) or _is_out_of_memory(error):
        return (
            f"The memory is full ({files.reason_of(error)}); lower the batch size or "
            "the size of the images.",
            _FAILED_EXIT,
        )
    failure = files.storage_failure(error)
    if failure is None:
        return None, _FAILED_EXIT
    sentence, path_is_wrong = failure
    return sentence, _USAGE_EXIT if path_is_wrong else _FAILED_EXIT


def _refusal(error):
    """The sentence of tfssl, or what another library says, and which one."""
    raised = traceback.extract_tb(error.__traceback__)[-1]
    if raised.filename.startswith(_OURS):
        return str(error)
    place = os.sep.join(raised.filename.split(os.sep)[-3:])
    return (
        f"{files.reason_of(error)} ({type(error).__name__} of {place}:{raised.lineno}, "
        f"not foreseen by tfssl; {_TO_SEE_MORE})"
    )


def _is_out_of_memory(error):
    return isinstance(error, tf.errors.ResourceExhaustedError) and "OOM" in str(error)


def _said(error, code):
    print(f"error: {error}", file=sys.stderr)
    return code


class Switch(flags.Flag):
    """A flag `--name`, `--noname` or `--name=auto`."""

    def __init__(self, name, default, help_text):
        super().__init__(_SwitchParser(), None, name, default, help_text, boolean=True)

    def serialize(self):
        if self.value == "auto":
            return f"--{self.name}=auto"
        return super().serialize()


class _SwitchParser(flags.BooleanParser):
    def parse(self, argument):
        return argument if argument == "auto" else super().parse(argument)


def pairs(items, flag):
    """`["width=0.25"]` -> `{"width": 0.25}`; values are Python literals or text."""
    found = {}
    for item in items or ():
        name, equals, text = item.partition("=")
        if not equals or not name:
            raise ValueError(
                f"--{flag}={item} received, expected --{flag}=name=value, for "
                f"example --{flag}=temperature=0.5."
            )
        try:
            found[name] = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            found[name] = text
    return found


def numbers(texts, flag):
    """`["0.1", "10"]` -> `(0.1, 10.0)`; None stays None."""
    if texts is None:
        return None
    try:
        return tuple(float(text) for text in texts)
    except ValueError as error:
        raise ValueError(
            f"--{flag}={','.join(texts)} received, expected numbers with commas "
            "between them, such as 0.1,1,10."
        ) from error


def train(task, given, module, what="Encoder"):
    """Calls a task that trains, and says where its result lies.

    Args:
        task: `tasks.pretrain`, or another with its `out`, `strategy` and `on_accept`.
        given: dict, its arguments by the flags' values.
        module: of the binary, whose flags are written when the start is accepted.
        what: of the result, in a word.
    """
    out = files.expanded(given["out"])
    run = task(**given, on_accept=lambda: write_flags(out, module))
    if strategy.is_chief(given["strategy"]):
        print(f"{what}: {run.path}/{run.method.kept_as}   Run: {run.path}/run.json")


def write_flags(folder, module):
    """Writes the flags that a binary defines as `folder/run.flags`, rerunnable."""
    lines = [
        flag.serialize()
        for flag in flags.FLAGS.get_key_flags_for_module(module)
        if flag.value is not None and flag.name != "flagfile"
    ]
    text = "".join(line + "\n" for line in sorted(lines) if line)
    files.write_text(os.path.join(folder, "run.flags"), text)
