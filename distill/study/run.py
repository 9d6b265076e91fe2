"""One training of a study, alone or side by side with those of other seeds."""

from __future__ import annotations

import json
import logging
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from distill.atomic import atomic_write
from distill.command.command_line import CLI
from distill.command.errors import one_line
from distill.errors import UserError
from distill.study import run_folder
from distill.study.devices import device_of
from distill.study.lock import check_latest, run_lock
from distill.study.pool import slot
from distill.study.settings import (
    LIBRARY_VERSION,
    digest,
    flat,
    named_files,
    own_modules,
    parts_that_matter,
    read_hashes,
)
from distill.study.side_by_side import fit_side_by_side, set_up

_Scores = dict[str, float]

Policy = Literal["refuse", "keep", "replace"]
"""What a study does about results of other settings or of other code in its folder."""

ANY_DEVICE = ("trainer.devices", "1")
"""The setting of a run that did not ask for a certain device."""

CHOSEN_BY_STUDY = tuple(
    f"trainer.{name}" for name in ("default_root_dir", "devices", "enable_progress_bar", "enable_model_summary")
)
"""Arguments of a run that say nothing about its result, or that the study sets for each run."""


@dataclass(frozen=True)
class Run:
    """One training of a study.

    Args:
        column: The name of its column.
        row: The name of its row.
        seed: Its seed.
        folder: Where it is written.
        configs: The texts of its configurations in YAML, which are merged left to right. They are not read from files,
            so nothing changes them between the plan of a study and the last of its runs.
        fingerprint: A hash of its settings, and of the files that they name.
        settings: Arguments and their values that the study adds.
        threads: The number of threads; torch's own number with ``None``.
        teacher: The run that trains its teacher.
        used: Other runs whose files it uses.
        record: What the fingerprint is a hash of, for people and messages, and the code with which the run trains.
        policy: What it does about results of other settings or other code in its folder.
        also_in: Further columns that use this run as their teacher, because theirs would have the same settings.
    """

    column: str
    row: str
    seed: int
    folder: Path
    configs: tuple[str, ...]
    fingerprint: str
    settings: tuple[tuple[str, str], ...]
    threads: int | None
    teacher: Run | None = None
    used: tuple[Run, ...] = ()
    record: dict[str, Any] = field(default_factory=dict, compare=False)
    policy: Policy = field(default="refuse", compare=False)
    also_in: list[str] = field(default_factory=list, compare=False)

    @property
    def columns(self) -> list[str]:
        """The names of all columns that it belongs to."""
        return [self.column, *self.also_in]

    @property
    def study_folder(self) -> Path:
        """The folder of the study."""
        return self.folder.parents[2]

    def arguments(self) -> list[str]:
        """The command line of this training."""
        study, name = self.study_folder, self.folder.parent.relative_to(self.study_folder)
        arguments = [*self.settings_arguments(), "--logs_dir", str(study), "--name", str(name)]
        arguments += ["--version", self.folder.name, "--trainer.default_root_dir", str(self.folder)]
        arguments += ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
        return arguments

    def settings_arguments(self) -> list[str]:
        """The part of the command line that says what is trained, and not where it is written."""
        arguments = [part for text in self.configs for part in ("--config", text)]
        arguments += ["--seed_everything", str(self.seed)]
        for key, value in self.settings:
            arguments += [f"--{key}", value]
        if self.teacher is not None:
            arguments += ["--model.init_args.teacher_checkpoint", str(self.teacher.best)]
        return arguments

    def other_modules(self) -> bool:
        """Whether modules of the user differ from those of the results in its folder."""
        return bool(run_folder.read_record(self.folder).get("modules", {}) != self.record["modules"])

    @property
    def chosen_keys(self) -> list[str]:
        """The keys of its configuration that the study sets."""
        own = ["model.init_args.teacher_checkpoint"] if self.teacher is not None else []
        return [*own, *(key for key, _ in self.settings)]

    @property
    def after(self) -> list[Run]:
        """The trainings that must have ended before this one."""
        return [*([self.teacher] if self.teacher is not None else []), *self.used]

    @property
    def best(self) -> Path:
        """The checkpoint of its best epoch."""
        return self.folder / "checkpoints" / "best.ckpt"

    def result(self) -> dict[str, Any] | None:
        """What the training gave, if it has ended with these very settings.

        Raises:
            UserError: The file of the result is damaged.
        """
        result = run_folder.read_result(self.folder)
        return result if result is not None and result["fingerprint"] == self.fingerprint else None

    def other_settings(self) -> list[str]:
        """What differs in the settings of the results in its folder; nothing if there are none, or if they are its."""
        if run_folder.read_fingerprint(self.folder) == self.fingerprint or not run_folder.holds_results(self.folder):
            return []
        return run_folder.setting_differences(run_folder.read_record(self.folder), self.record)

    def other_code(self) -> list[str]:
        """What differs in the code of the results in its folder, if they are of its settings."""
        if run_folder.read_fingerprint(self.folder) != self.fingerprint or not run_folder.holds_results(self.folder):
            return []
        return run_folder.code_differences(run_folder.read_record(self.folder), self.record)

    def __str__(self) -> str:
        return " · ".join(filter(None, (self.column, self.row, f"seed {self.seed}")))


def train(runs: Sequence[Run]) -> None:
    """Fits and tests runs that differ only in their seeds, side by side, and writes the ``result.json`` of each.

    A single run that was stopped continues from its last checkpoint. Where another process trains in the folder of a
    run, this one waits for it, and trains only what has no scores then. An error becomes the result of the runs that
    it ends; its traceback is in their ``error.txt``.

    Raises:
        UserError: A folder has results of other settings or of other code, which nobody said may be replaced.
    """
    _be_quiet()
    if runs[0].threads is not None:
        torch.set_num_threads(runs[0].threads)
    with ExitStack() as locks:
        for run in sorted(runs, key=lambda run: run.folder):
            locks.enter_context(run_lock(run.folder))
        for run in runs:
            _begin(run)
        if to_train := [run for run in runs if "scores" not in (run.result() or {})]:
            _train(to_train)


def _train(runs: Sequence[Run]) -> None:
    started = time.monotonic()
    outcomes: dict[Run, _Scores | Exception] = {run: error for run in runs if (error := _failed_before(run))}
    able = [run for run in runs if run not in outcomes]
    try:
        outcomes |= _fit_and_test(able)
    except Exception as error:
        outcomes |= dict.fromkeys(able, error)
    seconds = round((time.monotonic() - started) / len(runs), 2)
    for run, outcome in outcomes.items():
        if isinstance(outcome, Exception):
            write_result(run, {"error": sentence(outcome)})
            with atomic_write(run.folder / "error.txt") as draft:
                draft.write_text("".join(traceback.format_exception(outcome)))
            continue
        write_result(run, {"scores": outcome, "seconds": seconds})
        for name in ("error.txt", "checkpoints/last.ckpt"):
            (run.folder / name).unlink(missing_ok=True)
        run_folder.forget_replaced(run.folder)


def train_group(runs: list[Run], jobs: str) -> None:
    """Trains runs one after the other, as one job of a cluster; an error ends only its own run.

    Args:
        runs: The runs.
        jobs: The name of the jobs of the study that submitted it (see :func:`~distill.study.lock.announce_jobs`).

    Raises:
        UserError: Another study has begun in the folder, while this job waited in a queue.
    """
    for run in runs:
        check_latest(run.study_folder, jobs)
        train([run])


def _failed_before(run: Run) -> RuntimeError | None:
    """The error of a run that needs another one that has failed."""
    for other in run.after:
        if error := (other.result() or {}).get("error"):
            return RuntimeError(f"its {other.row} failed: {error}")
    return None


def _fit_and_test(runs: Sequence[Run]) -> Mapping[Run, _Scores | Exception]:
    if len(runs) > 1:
        return dict(zip(runs, _fit_side_by_side_and_test(runs), strict=True))
    return {run: _fit_and_test_alone(run) for run in runs}


def _fit_and_test_alone(run: Run) -> _Scores:
    cli = _RunCLI(run)
    last = run.folder / "checkpoints" / "last.ckpt"
    kept = _LastMetrics()
    cli.trainer.callbacks.insert(0, kept)  # type: ignore[attr-defined]
    cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=str(last) if last.is_file() else None)
    if not run.best.is_file():
        raise UserError("no epoch was validated, so there is no best one: check_val_every_n_epoch exceeds max_epochs")
    fitted = kept.values | _metrics(cli.trainer)
    (scores,) = cli.trainer.test(datamodule=cli.datamodule, ckpt_path=str(run.best), verbose=False)
    return fitted | dict(scores)


class _LastMetrics(Callback):
    """Keeps an epoch's metrics in its checkpoint, because a fit that continues after its last epoch logs none."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["metrics"] = _metrics(trainer)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.values = checkpoint.get("metrics", {})


def _metrics(trainer: Trainer) -> dict[str, float]:
    return {name: value.item() for name, value in trainer.callback_metrics.items() if "/" in name}


def _fit_side_by_side_and_test(runs: Sequence[Run]) -> Iterator[_Scores | Exception]:
    clis = []
    for run in runs:
        cli = _RunCLI(run)
        set_up(cli)  # before the next command line sets the random state
        clis.append(cli)
    for run, cli, diverged in zip(runs, clis, fit_side_by_side(clis), strict=True):
        if diverged is not None:
            yield UserError(
                f"the loss of seed {run.seed} is NaN or infinite from step {diverged} on: lower the learning rate, or "
                "leave side_by_side out to see the cause"
            )
            continue
        try:
            (scores,) = cli.trainer.test(cli.model, cli.datamodule, verbose=False)
            cli.trainer.save_checkpoint(run.best, weights_only=True)
        except Exception as error:
            yield error
        else:
            yield dict(scores)


def _begin(run: Run) -> None:
    """Prepares the folder of a run, unless the run has begun there already.

    Raises:
        UserError: The folder has results of another run, which this one may not replace.
    """
    run_folder.recover(run.folder)
    other_code = run.other_code() if run.policy != "keep" else []
    if run_folder.read_fingerprint(run.folder) == run.fingerprint and not other_code:
        return
    others = run.other_settings() or other_code
    if others and run.policy != "replace":
        raise UserError(f"{run.folder} has results of another run: {others[0]}")
    run_folder.begin(run.folder, run.fingerprint, run.record)


def parsed_settings(config: Mapping[str, Any], chosen: Sequence[str]) -> str:
    """A hash of a parsed configuration without what the study chooses for each run.

    Args:
        config: What :func:`~distill.study.settings.parts_that_matter` returns.
        chosen: Keys that the study sets in this run, beside those that it sets in every run.
    """
    return digest({key: str(value) for key, value in flat(config) if key not in (*CHOSEN_BY_STUDY, *chosen)})


class _RunCLI(CLI):
    """Makes the classes of a run, if its configuration, its files and its code are those that the study has planned."""

    def __init__(self, run: Run) -> None:
        self._run = run
        super().__init__(run.arguments(), run=False)

    def before_instantiate_classes(self) -> None:
        """Compares what was parsed with the plan, and chooses a device.

        Raises:
            UserError: Something has changed since the study began.
        """
        run, config = self._run, parts_that_matter(self.config.as_dict())
        if parsed_settings(config, run.chosen_keys) != run.record["parsed"]:
            raise UserError(f"the configuration of {run} is not the one with which the study began: start it again")
        files = named_files(config, run.study_folder, read_hashes(run.study_folder))
        now = {**run.record, "files": files, "modules": own_modules(config), "library": LIBRARY_VERSION}
        changed = run_folder.file_differences(run.record, now) + run_folder.code_differences(run.record, now)
        if changed:
            raise UserError(f"since the study began, {changed[0]}: start it again")
        if ANY_DEVICE in run.settings:
            self.config.trainer.devices = device_of(slot(), self.config.trainer)
        super().before_instantiate_classes()


def write_result(run: Run, content: dict[str, Any]) -> None:
    """Writes what :meth:`Run.result` reads, unless the folder has become that of another run."""
    if run_folder.read_fingerprint(run.folder) not in (None, run.fingerprint):
        return
    ended = datetime.now().astimezone().isoformat(timespec="seconds")
    with atomic_write(run.folder / run_folder.RESULT) as draft:
        draft.write_text(json.dumps({"fingerprint": run.fingerprint, **content, "ended": ended}, indent=1))


def sentence(error: BaseException) -> str:
    """An error as a table shows it."""
    message = one_line(str(error.args[0])) if error.args else ""
    return message if " " in message else f"{type(error).__name__} {message}".strip()


def _be_quiet() -> None:
    """Silences the messages of a run: the study has a progress bar."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
