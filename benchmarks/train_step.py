"""Speed of a training step: tfssl against lightly, and against the bare encoder.

make bench-step ARGS="simclr:float32:sgd --depth=18 --width=0.25 --size=32 --batch=64"

The halves, `step_tfssl.py` and `step_lightly.py` (`make peer`), train the same ResNet
on as many random views, with the same precision and optimizer; a case is
METHOD[:PRECISION[:OPTIMIZER]]. Every case gets new processes. On processors all modes
of both take turns, block by block, so that a busy machine slows all alike. A GPU would
have to hold all of them: there one mode of each takes turns with one of the other, in
the order given. One starts after the other, since a half that chooses its kernels must
not meet the other's work. Each mode prints images/s, time per
step (least and most of the blocks), core-ms (processor time per image, of all threads),
peak memory and the time of the first call; each case the ratios, medians of the turns.
PyTorch's threads wait by running: `OMP_WAIT_POLICY=passive` makes its core-ms honest.

- `--modes`: those of `step_tfssl.py`, by default `graph` and, on a GPU, `jit`.
  `bare+graph` is the bare encoder, which the overhead of `graph` is said against.
- `--peer_modes`: those of `step_lightly.py`, `eager` and, on a GPU, `compile`.
- `--stock_norm`: every mode again with Keras's BatchNormalization in place of ours.
- `--ours`, `--peer`: the commands of the halves, where they need environments. Both
  must compute on a GPU, or none.
- `--limit`: seconds of a case; a half that takes longer is stopped.
"""

import itertools
import json
import shlex
import statistics
import subprocess
import sys
import threading
import time

from benchmarks import step_timing


class Worker:
    """A half in a process of its own, served over its standard streams."""

    def __init__(self, framework, command, options):
        self.framework = framework
        command = [*shlex.split(command), "--served", *step_timing.handed_on(options)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._limit, self._late = options.limit, False
        self._clock = threading.Timer(options.limit, self._stop)
        self._clock.daemon = True
        self._clock.start()

    def _stop(self):
        self._late = True
        self._process.kill()

    def ask(self, *request):
        """The answer to a request, a dict; raises `RuntimeError` if it failed."""
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self.answer()

    def answer(self):
        answer = self._process.stdout.readline()
        while answer and not answer.startswith("{"):  # What an import printed.
            answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(self._why_it_ended())
        found = json.loads(answer)
        if "error" in found:
            raise RuntimeError(found["error"])
        return found

    def _why_it_ended(self):
        code = self._process.wait()
        if self._late:
            return (
                f"{self.framework} was stopped after {self._limit:g} s in one case; "
                "give a longer --limit, or a smaller case."
            )
        return (
            f"{self.framework} ended with exit code {code}; what it printed says why."
        )

    def end(self):
        self._clock.cancel()
        self._process.kill()
        self._process.wait()


def run_case(case, options):
    """Starts the halves, times all modes and prints what was found."""
    print(f"\n{case}", flush=True)
    commands = {"tfssl": options.ours, "lightly": options.peer}
    workers = [Worker(name, c, options) for name, c in commands.items() if c]
    try:
        hellos = {w: guarded(w.framework, w.answer) for w in workers}
        gpu = on_gpu(hellos.values())
        turns = [
            [(worker, mode) for mode in _modes(worker, gpu, options)]
            for worker, hello in hellos.items()
            if hello
        ]
        print("  on " + ", ".join({h["device"] for h in hellos.values() if h}))
        if gpu or options.pairs:
            groups = [list(filter(None, g)) for g in itertools.zip_longest(*turns)]
        else:
            groups = [list(itertools.chain(*turns))]
        found = {}
        for group in groups:
            found |= measured(case, group, options)
    finally:
        for worker in workers:
            worker.end()
    print_ratios(found)


def on_gpu(hellos):
    """Whether the halves compute on a GPU; ends the program where only one does."""
    kinds = {hello["gpu"]: hello["device"] for hello in hellos if hello}
    if len(kinds) > 1:
        raise SystemExit(
            f"One half computes on {kinds[True]} and the other on {kinds[False]}, so "
            "their times cannot be compared; mend the other's environment (--ours, "
            "--peer), or set CUDA_VISIBLE_DEVICES=-1 for both."
        )
    return True in kinds


def _modes(worker, gpu, options):
    if worker.framework == "lightly":
        return options.peer_modes or ["eager", "compile"][: 1 + gpu]
    modes = options.modes or ["graph", "jit"][: 1 + gpu]
    stock = [f"{mode}+stock" for mode in modes] if options.stock_norm else []
    return [*modes, *stock]


def guarded(name, function, *arguments):
    """The function's result; None, and a line, where it fails: the others count."""
    try:
        return function(*arguments)
    except (RuntimeError, OSError) as error:
        print(f"  FAILED {name} {error}", flush=True)
        return None


def measured(case, turns, options):
    """`{(framework, mode): found}` of modes that take turns."""
    found = {}
    for worker, mode in turns:
        name = f"{worker.framework} {mode}"
        started = guarded(name, worker.ask, "start", str(case), mode)
        if started:
            found[worker.framework, mode] = started
    for ask in [*["block"] * options.blocks, "end"]:
        for worker, mode in turns:
            of_mode = found.get((worker.framework, mode))
            if of_mode is None:
                continue
            name = f"{worker.framework} {mode}"
            answer = guarded(name, worker.ask, ask, mode)
            if answer is None:
                del found[worker.framework, mode]
            elif ask == "block":
                step_timing.add_block(of_mode, answer)
            else:
                of_mode |= answer
                print(f"  {step_timing.line(name, of_mode, options.batch)}", flush=True)
    return found


def print_ratios(found):
    """Ours over the peer's, and how much of its time a method adds to its encoder's."""
    for (framework, mode), of_mode in found.items():
        bare = found.get((framework, f"{step_timing.BARE}+{mode}"))
        if bare:
            print(f"  {framework} {mode}, time of its encoder: {_ratio(of_mode, bare)}")
        stock = found.get((framework, f"{mode}+stock"))
        if stock:
            print(f"  {mode}, images/s of {mode}+stock: {_ratio(stock, of_mode)}")
        if framework != "tfssl" or {step_timing.BARE, "stock"} & {*mode.split("+")}:
            continue
        for (other, its), of_peer in found.items():
            if other != framework and step_timing.BARE not in its:
                print(
                    f"  tfssl {mode}, images/s of {other} {its}: "
                    f"{_ratio(of_peer, of_mode)}"
                )
    weights = {f"{fw} {mode}": of["weights"] for (fw, mode), of in found.items()}
    if len(set(weights.values())) > 1:
        listed = ", ".join(f"{name} {count:,}" for name, count in weights.items())
        print(f"  weights that are trained: {listed}")
    sys.stdout.flush()


def _ratio(above, below):
    """The ratio of seconds, and that of processor time: medians of the turns."""
    by_clock, by_processor = (
        statistics.median(a / b for a, b in zip(above[key], below[key]))
        for key in ("seconds", "processor")
    )
    return f"{by_clock:.2f} x (by core-ms {by_processor:.2f} x)"


def run_cases(options, run):
    """Calls `run(case, options)` for every case that `--until` lets start."""
    begin = time.time()
    for case in options.cases:
        if time.time() - begin > options.until:
            print(f"\n{case} SKIPPED after {options.until:.0f} s", flush=True)
            continue
        run(case, options)


def add_limit(parser):
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds of a case")


def main():
    parser = step_timing.parser(__doc__)
    add_limit(parser)
    add = parser.add_argument
    add("--ours", default=f"{sys.executable} -m benchmarks.step_tfssl")
    add("--peer", default="", help="command of the peer; none: tfssl alone")
    add("--peer_modes", nargs="+", help="ways of the peer to run a step, see above")
    add("--pairs", action="store_true", help="as on a GPU: see above")
    add("--stock_norm", action="store_true", help="see above")
    options = parser.parse_args()
    print(
        f"ResNet-{options.depth}, width {options.width:g}, {options.stem} stem, batch "
        f"{options.batch}, {options.size} px (small views {options.small})"
    )
    run_cases(options, run_case)


if __name__ == "__main__":
    main()
