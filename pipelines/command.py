"""How every binary runs: flags in, one call, one clear sentence on bad input."""

import ast
import os
import sys

import tensorflow as tf
from absl import app, flags, logging

from tfssl import files
from tfssl.training import checkpoint, monitors, saving, stalls, workers

_USAGE_EXIT = 2
DATA_HELP = (
    "Images: a folder, digits, tfds:NAME, tfds-dir:PATH, manifest:PATH (CSV or JSON "
    "lines), tfrecord:PATH (index or pattern)."
)
DATA_ARG_HELP = (
    "Argument of data.open_source, name=value: follow_links=True (folders), "
    "root=FOLDER (manifests), verify=True (records); repeatable."
)


def run(main):
    """Parses the flags and calls `main()`; user errors end in one line.

    Exit codes: 0 done, 2 bad input (one sentence on stderr), 75 preempted after
    saving, or another worker lost (start the same command again, on all workers),
    1 a stopped training.
    """

    def guarded(argv):
        if len(argv) > 1:
            raise app.UsageError(f"unexpected arguments {argv[1:]}; use --flags.")
        if not flags.FLAGS["verbosity"].present:
            # TensorFlow's own messages are many, and few are for users.
            logging.set_verbosity(logging.WARNING)
            tf.get_logger().setLevel("ERROR")
        try:
            main()
        except saving.Preempted as stop:
            print(stop.message, file=sys.stderr, flush=True)
            if isinstance(stop, stalls.InputLost):
                sys.stdout.flush()
                os._exit(stop.code)
            raise
        except workers.WorkerLost as error:
            sys.exit(_said(error, saving.Preempted.EXIT_CODE))
        except (monitors.TrainingStopped, checkpoint.SaveError) as error:
            sys.exit(_said(error, 1))
        except (ValueError, FileNotFoundError, PermissionError) as error:
            if os.environ.get("TFSSL_TRACEBACK"):
                raise
            sys.exit(_said(error, _USAGE_EXIT))

    app.run(guarded)


def _said(error, code):
    print(f"error: {error}", file=sys.stderr)
    return code


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


def write_flags(folder, module):
    """Writes the flags that a binary defines as `folder/run.flags`, rerunnable."""
    lines = [
        flag.serialize()
        for flag in flags.FLAGS.get_key_flags_for_module(module)
        if flag.value is not None and flag.name != "flagfile"
    ]
    text = "".join(line + "\n" for line in sorted(lines) if line)
    files.write_text(os.path.join(folder, "run.flags"), text)
