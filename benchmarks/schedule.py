"""Commands that wait for one another, several at a time, each with a log of its own."""

import dataclasses
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

ROOT = pathlib.Path(__file__).resolve().parent.parent


@dataclasses.dataclass(frozen=True)
class Job:
    """A command.

    Attributes:
        command: list of str.
        log: path of the file that gets its output.
        finished: whether it was run before, a function of nothing.
        before: names of the jobs that must be finished first.
    """

    command: list
    log: pathlib.Path
    finished: Callable
    before: tuple = ()


def add_arguments(parser):
    """`--jobs`, `--until` and `--flag`, which `run` and `binary` are given."""
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--until", type=float, default=1e9, help="seconds to start in")
    parser.add_argument("--flag", action="append", default=[], help="for every run")


def recipe(name):
    """The flags of a recipe, without its comments."""
    path = ROOT / "pipelines" / "recipes" / f"{name}.flags"
    return [line for line in path.read_text().splitlines() if line.startswith("--")]


def binary(name, *flags):
    """The command of one of `pipelines`."""
    return [sys.executable, "-m", f"pipelines.{name}", *flags]


def folder(out, name):
    """Where a job's run lies."""
    return out / name.replace(" ", "-").replace("%", "pct")


def row(name, accuracies):
    """Accuracies in %, None where one is missing, as a line of a Markdown table."""
    cells = ["–" if a is None else f"{a:.1f}" for a in accuracies]
    known = [a for a in accuracies if a is not None]
    mean = "–"
    if known:
        mean = f"{statistics.mean(known):.1f} ± {statistics.pstdev(known):.1f}"
    return f"| {name} | " + " | ".join([*cells, mean]) + " |"


def environment(at_once):
    """That of the commands; on a GPU the first of several must not take it all."""
    env = {"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ}
    return {"TF_FORCE_GPU_ALLOW_GROWTH": "true", **env} if at_once > 1 else env


def run(jobs, *, at_once, until, told, wanted=None):
    """Starts all jobs that are not finished, each as soon as what it waits for is.

    Args:
        jobs: dict of a name to a `Job`, in order.
        at_once: int, how many at a time.
        until: seconds after which none is started any more.
        told: what is printed of a finished one, a function of its name.
        wanted: names of those to start; None: all.

    Returns:
        The names of those that failed.
    """
    env = environment(at_once)
    begin, running, failed = time.time(), {}, []
    waiting = {name: job for name, job in jobs.items() if not job.finished()}
    done = {name for name in jobs if name not in waiting}
    if wanted is not None:
        waiting = {name: job for name, job in waiting.items() if name in wanted}
    while waiting or running:
        for name, process in list(running.items()):
            if process.poll() is None:
                continue
            del running[name]
            if process.returncode:
                failed.append(name)
            else:
                done.add(name)
            result = "failed" if process.returncode else told(name)
            print(f"{time.time() - begin:6.0f} s  {name}  {result}", flush=True)
        late = time.time() - begin > until
        ready = [name for name, job in waiting.items() if done.issuperset(job.before)]
        if not running and (late or not ready):
            break
        for name in ready[: 0 if late else at_once - len(running)]:
            job = waiting.pop(name)
            with open(job.log, "w") as log:
                running[name] = subprocess.Popen(
                    job.command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, env=env
                )
        time.sleep(0.2)
    for name in failed:
        print(f"FAILED {name}: {jobs[name].log}")
    return failed
