"""What both halves of `benchmarks.train_step` share: cases, clocks and lines.

A half times training steps of one framework: `step_tfssl.py` and `step_lightly.py`. It
runs alone, and prints a line per case and mode; or with `--served`, told by
`train_step.py` over its standard input, so that the halves can take turns. So do the
halves of `vit_step.py`, whose cases are `VitCase`s. Only
Python's own library is imported here: the halves have environments of their own.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import sys
import time

# Method -> how many views of `--size` and of `--small` pixels an image has.
VIEWS = {
    "simclr": (2, 0),
    "byol": (2, 0),
    "moco_v2": (2, 0),
    "moco_v3": (2, 0),
    "swav": (2, 6),
    "deepcluster": (1, 0),
}
# Method -> what passes the encoder in a step, each a batch of views: with gradient,
# and without one, through a second encoder.
PASSES = {
    "simclr": (((0, 1),), ()),
    "byol": (((0,), (1,)), ((0,), (1,))),
    "moco_v2": (((0,),), ((1,),)),
    "moco_v3": (((0,), (1,)), ((0,), (1,))),
    "swav": (((0, 1), tuple(range(2, 8))), ()),
    "deepcluster": (((0,),), ()),
}
PRECISIONS = ("float32", "bfloat16", "float16")
OPTIMIZERS = ("sgd", "lars")
# Vision transformers of twelve blocks: the width of a token, 64 numbers a head.
WIDTHS = {"tiny": 192, "small": 384, "base": 768}
CLASSES = 1000  # That they tell apart.
BARE = "bare"
_GIB = 2**30


def _check(case, form, **choices):
    """Raises `ValueError` for a part of a case that is none of its choices."""
    for name, valid in choices.items():
        if getattr(case, name) not in valid:
            raise ValueError(
                f"{name}={getattr(case, name)!r} received, expected one of "
                f"{', '.join(valid)} in {form}."
            )


@dataclasses.dataclass(frozen=True)
class Case:
    """A method in a precision with an optimizer."""

    method: str
    precision: str = "float32"
    optimizer: str = "sgd"

    def __post_init__(self):
        _check(
            self,
            "METHOD[:PRECISION[:OPTIMIZER]]",
            method=tuple(VIEWS),
            precision=PRECISIONS,
            optimizer=OPTIMIZERS,
        )

    def __str__(self):
        return f"{self.method}:{self.precision}:{self.optimizer}"


@dataclasses.dataclass(frozen=True)
class VitCase:
    """A vision transformer in a precision: patches of 16 pixels, of small images 4."""

    network: str
    size: int
    precision: str = "float32"

    def __post_init__(self):
        object.__setattr__(self, "size", int(self.size))
        _check(
            self,
            "NETWORK:SIZE[:PRECISION]",
            network=tuple(WIDTHS),
            precision=PRECISIONS,
        )

    def __str__(self):
        return f"{self.network}:{self.size}:{self.precision}"

    @property
    def patch(self):
        return 4 if self.size < 112 else 16

    @property
    def dim(self):
        return WIDTHS[self.network]


@dataclasses.dataclass
class Step:
    """A training step that can be timed.

    Attributes:
        run: function without arguments, one call.
        loss: function without arguments -> float, a loss that was met.
        weights: int, numbers that are trained.
        steps: int, training steps of a call.
    """

    run: object
    loss: object
    weights: int
    steps: int = 1


class Processor:
    """The clock and the memory of steps on processors."""

    gpu = False
    name = "CPU"

    def __init__(self):
        self._before = 0

    def synchronize(self):
        """Waits until all work is done."""

    def forget_peak(self):
        """From here on the peak counts anew, above what is resident now."""
        forget_peak()
        self._before = resident("current")

    def peak(self):
        """Bytes at most since `forget_peak`."""
        return resident("peak") - self._before


def resident(which):
    """Bytes of this process, `"current"` or `"peak"` (Linux)."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    found = dict(line.split(":", 1) for line in lines)
    return int(found[{"current": "VmRSS", "peak": "VmHWM"}[which]].split()[0]) * 1024


def forget_peak():
    """From here on the peak of this process counts anew (Linux)."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")


class Half:
    """One framework's steps, made by `make_step(case, parts, options) -> Step`.

    Args:
        framework: its name in the lines.
        make_step: as above; `parts` is the mode, taken apart at its "+" signs.
        device: a `Processor`, or what has its functions for a GPU.
        options: of `parser`.
        case_of: function of the parts of a case's text -> the case.
    """

    def __init__(self, framework, make_step, device, options, case_of=Case):
        self.framework = framework
        self._make_step = make_step
        self._device = device
        self._options = options
        self._case_of = case_of
        self._steps = {}
        self._peaks = {}

    def start(self, case, mode):
        """Builds a step, calls it once and warms it up."""
        self._device.forget_peak()
        step = self._make_step(case, mode.split("+"), self._options)
        begin = time.perf_counter()
        step.run()
        self._device.synchronize()
        first = time.perf_counter() - begin
        self._steps[mode], self._peaks[mode] = step, 0
        for _ in range(self._options.warm):
            step.run()
        self._device.synchronize()
        self._peaks[mode] = self._device.peak()
        return {"first": first, "weights": step.weights}

    def block(self, mode):
        """Seconds per step of one block, and processor time of all threads."""
        step = self._steps[mode]
        calls = max(1, self._options.steps // step.steps)
        begin, used = time.perf_counter(), time.process_time()
        for _ in range(calls):
            step.run()
        self._device.synchronize()
        steps = calls * step.steps
        seconds = time.perf_counter() - begin
        return {
            "seconds": seconds / steps,
            "processor": (time.process_time() - used) / steps,
        }

    def end(self, mode):
        """Drops the step; its loss and peak."""
        step = self._steps.pop(mode)
        peak = max(self._peaks[mode], self._device.peak() if self._device.gpu else 0)
        return {"loss": step.loss(), "peak": peak / _GIB}

    def main(self):
        """Runs the cases of the command line, or those that standard input asks for."""
        if self._options.served:
            self._serve()
            return
        begin = time.time()
        for case in self._options.cases:
            for mode in self._options.modes:
                if time.time() - begin > self._options.until:
                    print(f"SKIPPED {self.framework} {case} {mode}", flush=True)
                    continue
                try:
                    found = self.start(case, mode)
                    for _ in range(self._options.blocks):
                        add_block(found, self.block(mode))
                    found |= self.end(mode)
                except Exception as error:  # The other cases still count.
                    failed = f"FAILED {self.framework} {case} {mode}"
                    print(f"{failed} {error!r:.600}", flush=True)
                    self._steps.clear()
                    continue
                name = f"{self.framework} {mode}"
                print(str(case), line(name, found, self._options.batch), flush=True)
        print(f"{self.framework} done after {time.time() - begin:.0f} s", flush=True)

    def _serve(self):
        # What else is printed must not stand among the answers.
        answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

        def answer(found):
            answers.write(json.dumps(found) + "\n")
            answers.flush()

        answer({"gpu": self._device.gpu, "device": self._device.name})
        for request in sys.stdin:
            do, *arguments = json.loads(request)
            try:
                if do == "start":
                    case = self._case_of(*arguments[0].split(":"))
                    answer(self.start(case, arguments[1]))
                else:
                    answer({"block": self.block, "end": self.end}[do](*arguments))
            except Exception as error:  # The other cases still count.
                answer({"error": f"{error!r:.600}"})


def add_block(found, block):
    """Adds the seconds of a block to what was found of a mode."""
    for key, value in block.items():
        found.setdefault(key, []).append(value)


def line(name, found, batch):
    """What was found of one framework's mode, as text."""
    seconds = found["seconds"]
    median = statistics.median(seconds)
    return (
        f"{name:<28} {batch / median:9.1f} images/s {median * 1e3:9.2f} ms/step "
        f"({min(seconds) * 1e3:.2f}-{max(seconds) * 1e3:.2f})  core-ms "
        f"{1e3 * statistics.median(found['processor']) / batch:.2f}  peak "
        f"{found['peak']:.2f} GiB  first {found['first']:.1f} s  loss "
        f"{found['loss']:.4f}"
    )


def case_of(text, kind=Case):
    try:
        return kind(*text.split(":"))
    except (TypeError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def parser(description):
    """The arguments that the halves and `train_step.py` share."""
    made = _parser(description, Case, [Case(method) for method in VIEWS])
    add = made.add_argument
    add("--depth", type=int, default=50, help="of the ResNet")
    add("--width", type=float, default=1.0, help="of the ResNet")
    add("--stem", choices=("imagenet", "cifar"), default="imagenet")
    add("--size", type=int, default=224, help="side of the views")
    add("--small", type=int, default=96, help="side of the six small views of SwAV")
    add("--batch", type=int, default=256, help="images per step")
    add("--queue", type=int, default=65_536, help="keys in the queue of MoCo v2")
    return made


def vit_parser(description):
    """The arguments that the halves of `vit_step.py` share."""
    cases = [VitCase("tiny", 32, precision) for precision in PRECISIONS[:2]]
    made = _parser(description, VitCase, cases)
    made.add_argument("--batch", type=int, default=64, help="images per step")
    return made


def _parser(description, kind, cases):
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add(
        "cases",
        nargs="*",
        type=lambda text: case_of(text, kind),
        default=cases,
        metavar="CASE",
    )
    add("--modes", nargs="+", default=None, help="ways to run a step, see above")
    add("--warm", type=int, default=3, help="calls that are not timed, after the first")
    add("--blocks", type=int, default=5, help="timed blocks")
    add("--steps", type=int, default=4, help="training steps of a block")
    add("--until", type=float, default=1e9, help="start nothing after these seconds")
    add("--served", action="store_true", help="take requests from standard input")
    return made


def handed_on(options):
    """The options as arguments for a half."""
    names = ("depth", "width", "stem", "size", "small", "batch", "queue")
    names += ("warm", "blocks", "steps")
    known = [name for name in names if hasattr(options, name)]
    return [f"--{name}={getattr(options, name)}" for name in known]
