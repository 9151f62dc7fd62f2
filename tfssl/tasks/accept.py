"""Whether a start may go on in its folder, and the record that it then writes.

Nothing is written before the start is accepted: one that is refused leaves the folder
as it was, and makes none.
"""

import contextlib
import json
import os

import tensorflow as tf
from absl import logging

from tfssl import files, locks
from tfssl.formats import keras_file
from tfssl.methods import classification
from tfssl.tasks import cuts, epoch_judges, results, runs, settings, show_views
from tfssl.training import checkpoint, history, monitors


@contextlib.contextmanager
def alone_in(out, workers):
    """While open, no other training or evaluation uses the folder.

    Raises:
        ValueError: on all workers, if it is in use or cannot be written.
    """
    with contextlib.ExitStack() as held:
        _on_chief(workers, lambda: held.enter_context(locks.hold(out)))
        yield


def check_names(allow_changes):
    """Raises `ValueError` for names that `allow_changes` cannot hold."""
    known = (*settings.RESULT, settings.IMAGES[0])
    unknown = [name for name in allow_changes if name not in known]
    if unknown:
        raise ValueError(
            f"allow_changes={unknown[0]!r} received, expected some of "
            f"{', '.join(sorted(known))}; other settings may always change."
        )


class Record:
    """`run.json`: read and compared at the start, written once that is accepted.

    Args:
        arguments: dict, of the task.
        plan: `trainer.Plan`.
        workers: `workers.Workers`; all of them call the methods, the chief reads and
            writes.
        judging: function of `monitoring.Watch`, called on the chief: what judges the
            epochs.

    Attributes:
        since: the step after which all epochs are judged alike, once it is accepted.
    """

    def __init__(self, arguments, plan, workers, judging):
        self._out = arguments["out"]
        self._arguments = arguments
        self._plan = plan
        self._workers = workers
        self._before, self._made, self._differences = {}, None, []
        self._judged, self._judged_otherwise = {}, []
        self._finished = False
        self._judging = judging
        self.since = 0

    def check(self):
        """Compares the settings: with those of the folder, and of all workers.

        Those of the folder where there is a state to go on from or a result.

        Raises:
            ValueError: for those that another result would come of, unless they are
                among `allow_changes`, for a result without a checkpoint, and where
                workers were started otherwise.
        """
        _on_chief(self._workers, self._check)
        self._check_workers()

    def _check(self):
        self._before = runs.record_of(self._out) or {}
        task, plan = self._before.get("task", "pretrain"), self._plan
        if "settings" in self._before and task != plan.task:
            raise ValueError(
                f"{self._out} holds a training of another kind ({task}, and not "
                f"{plan.task}); choose another --out."
            )
        self._made = self._makes()
        cuts.check_parted(plan.task, self._arguments, plan.train)
        folder = os.path.join(self._out, "checkpoints")
        newest = checkpoint.latest(folder)
        if newest and not self._arguments["resume"]:
            return  # Refused as such.
        if not newest and not self._before.get("results"):
            return
        cuts.check_own(self._out, self._arguments, plan.train)
        self._differences = settings.differences(
            self._before, self._arguments, self._made
        )
        allowed = self._arguments["allow_changes"]
        refused = [one for one in self._differences if one.setting not in allowed]
        if refused:
            names = dict.fromkeys(one.setting for one in self._differences)
            raise ValueError(
                f"{self._out} was trained with other settings: {_listed(refused)}. "
                "Start with those of that run, or in another --out, or allow the "
                f"change: --allow_changes={','.join(names)}."
            )
        left = runs.left_in(self._out)
        if left and not newest:
            raise ValueError(
                f"{self._out} is finished and has no checkpoint left to go on from: "
                f"training would begin anew and replace {left}. Take that as it is, "
                "put a checkpoint back, or choose another --out."
            )

    def _makes(self):
        """What the arguments lead to, for run.json."""
        noted = cuts.noted(self._arguments, self._plan.train)
        return settings.made(self._arguments, self._plan) | noted

    def _check_workers(self):
        workers = self._workers
        if workers.count == 1:
            return
        made = self._made or self._makes()
        mine = {"settings": settings.recorded(self._arguments), "made": made}
        chiefs = json.loads(workers.chiefs_text(json.dumps(mine)))
        found = settings.between_workers(chiefs, self._arguments, made)
        refused = found and ValueError(
            f"Worker {workers.index} was started otherwise than the chief: "
            f"{_listed(found)}. Start all workers with the same command, and with the "
            "same images."
        )
        if any(workers.any(refused)):
            _refuse_on_all(
                workers,
                refused,
                "A worker was started otherwise than the chief; its error says how.",
            )

    def accept(self, model, told):
        """Writes the settings, and a sheet of the views; a finished run keeps its own.

        Args:
            model: the `Method`, restored.
            told: what is about to run, to be printed.
        """
        step, plan = int(model.step.numpy()), self._plan
        before = (self._before.get("made") or {}).get("steps_per_epoch")
        other = step and before and before != plan.steps_per_epoch
        self._finished = self._workers.is_chief and self._is_finished(model)
        other_epochs, inside, over = self._workers.any(
            other,
            other and (step % before or step % plan.steps_per_epoch),
            other and step >= plan.total_steps and not self._finished,
        )
        if over:
            raise ValueError(
                f"The {step:,} steps of {self._out} are epoch "
                f"{step / plan.steps_per_epoch:.2f} of {plan.epochs} with these "
                f"settings (an epoch has {plan.steps_per_epoch:,} steps): there would "
                "be nothing left to train; give more --epochs, or its own batch_size."
            )
        if inside:
            for metric in model.metrics:
                metric.reset_state()  # No mean over steps of two kinds.
        (since,) = self._workers.from_chief(lambda: (self._judged_since(step),))
        self.since = int(since)
        if not self._workers.is_chief:
            return
        verbose = self._arguments["verbose"]
        if verbose:
            print(told)
        if self._finished:
            if verbose:
                print(f"{self._out} is finished, step {step}: nothing to train.")
            return
        if other_epochs:
            logging.warning(
                "An epoch has %d steps, and had %d: step %d is epoch %.2f now.",
                *(plan.steps_per_epoch, before, step, step / plan.steps_per_epoch),
            )
        path = os.path.join(self._out, "views.png")
        with monitors.errors_logged(path):
            show_views.sheet(
                plan.train, plan.recipe, path, seed=plan.seed, augment=plan.augment
            )
        # Without the results and the evaluation of an earlier encoder; their files go
        # away first, so that none is ever beside a record that does not know of it.
        if step or self._before:
            of_encoder = runs.steps_of(self._before)
            results.put_away(self._out, step if of_encoder is None else of_encoder)
        files.write_json(
            os.path.join(self._out, "run.json"),
            {
                "task": plan.task,
                "settings": settings.recorded(self._arguments),
                "made": self._made,
                "changes": self._changes(step),
                **self._judged,
                "versions": runs.versions(model),
            },
        )
        if self._arguments["on_accept"]:
            self._arguments["on_accept"]()

    def _judged_since(self, step):
        """The step after which epochs are judged alike; notes by what, for run.json."""
        before = self._before.get("judged")
        if self._finished:
            return (before or {}).get(epoch_judges.SINCE, 0)
        lines = history.read(os.path.join(self._out, "metrics.jsonl"))
        last = max([line["step"] for line in lines if line["step"] <= step], default=0)
        now = self._judging()
        differ = epoch_judges.differences(before, now)
        since = epoch_judges.after(differ, before, last)
        if now or before:
            self._judged["judged"] = (now or before) | {epoch_judges.SINCE: since}
        if differ and step:
            self._judged_otherwise = differ
            logging.warning(
                "Epochs are judged otherwise after step %d: %s. The best checkpoint is "
                "one of those to come.",
                since,
                _listed(differ),
            )
        return since

    def _is_finished(self, model):
        found, step = self._before.get("results") or {}, int(model.step.numpy())
        return (
            step >= self._plan.total_steps
            and found.get("steps") == step
            and tf.io.gfile.exists(self._file_of(model))
        )

    def _file_of(self, model):
        return os.path.join(self._out, model.kept_as)

    def _changes(self, step):
        """What changed in this run, and at which step; nothing for a new one."""
        if not step:
            return []
        found = [(step, one) for one in self._differences]
        found += [(self.since, one) for one in self._judged_otherwise]
        return self._before.get("changes", []) + [
            {"step": step, "setting": one.name, "before": one.before, "now": one.now}
            for step, one in found
        ]

    def finish(self, model, encoder, head, lines, saver):
        """Writes the trained encoder and the results, unless they are there already.

        Encoder and head are one file, so that they are always of the same state.

        Args:
            model: the `Method`.
            encoder: Keras model, as it leaves the training.
            head: the same, or None.
            lines: those of the history.
            saver: `saving.Saver`.
        """
        if not self._workers.is_chief:
            return
        path = self._file_of(model)
        # A finished run of an older version may lack the head, and only that.
        complete = self._finished and (head is None or keras_file.holds_head(path))
        if not complete:
            keras_file.save(
                encoder,
                path,
                self._plan.preprocessing,
                head=head,
                classes=_classes_of(model),
            )
        if self._finished:
            return
        bad_files = self._plan.bad_files
        found = {
            "steps": int(model.step.numpy()),
            "last_epoch": lines[-1] if lines else None,
            "bad_files": bad_files.listed,
            "head": head is not None,
        }
        if saver.best_name:
            found[f"best_{saver.best_name}"] = saver.best
        runs.update(self._out, results=found)
        if bad_files.count:
            logging.warning(
                "%d unreadable image(s) were skipped: %s",
                bad_files.count,
                ", ".join(bad_files.listed[:20]),
            )


def _classes_of(model):
    """The classes that the head of a method tells apart, or None."""
    if not isinstance(model, classification.Classification):
        return None
    return keras_file.Classes(model.class_names, model.multilabel)


def _listed(differences, most=3):
    """The differences in words; of those in one setting the first few."""
    by_setting = {}
    for one in differences:
        by_setting.setdefault(one.setting, []).append(one)
    told = []
    for setting, some in by_setting.items():
        told += map(str, some[:most])
        if len(some) > most:
            told.append(f"{len(some) - most} more of {setting}")
    return "; ".join(told)


def _on_chief(workers, do):
    """Calls `do()` on the chief; what it refuses there, all workers refuse."""
    refused = None

    def call():
        nonlocal refused
        try:
            do()
        except ValueError as error:
            refused = error
        return (refused is not None,)

    (any_refused,) = workers.from_chief(call)
    if any_refused:
        _refuse_on_all(
            workers, refused, "The chief worker refuses this start; its error says why."
        )


def _refuse_on_all(workers, refused, elsewhere):
    """Raises what this worker refuses, or that another one does, in words."""
    workers.part()
    raise refused or ValueError(elsewhere)
