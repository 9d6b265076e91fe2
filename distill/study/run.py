"""One training of a study, alone or side by side with those of other seeds."""

from __future__ import annotations

import json
import logging
import shutil
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from distill.atomic import atomic_write
from distill.command.command_line import CLI
from distill.command.errors import one_line
from distill.study.side_by_side import fit_side_by_side, set_up

_Scores = dict[str, float]


@dataclass(frozen=True)
class Run:
    """One training of a study."""

    column: str
    row: str
    seed: int
    folder: Path
    configs: tuple[Path, ...]
    fingerprint: str
    settings: tuple[tuple[str, str], ...]
    threads: int | None
    teacher: Run | None = None
    used: tuple[Run, ...] = ()

    def arguments(self) -> list[str]:
        """The command line of this training."""
        study, name = self.folder.parents[2], self.folder.parent.relative_to(self.folder.parents[2])
        arguments = [*self.settings_arguments(), "--logs_dir", str(study), "--name", str(name)]
        arguments += ["--version", self.folder.name, "--trainer.default_root_dir", str(self.folder)]
        arguments += ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
        return arguments

    def settings_arguments(self) -> list[str]:
        """The part of the command line that says what is trained, and not where it is written."""
        arguments = [part for path in self.configs for part in ("--config", str(path))]
        arguments += ["--seed_everything", str(self.seed)]
        for key, value in self.settings:
            arguments += [f"--{key}", value]
        if self.teacher is not None:
            arguments += ["--model.init_args.teacher_checkpoint", str(self.teacher.best)]
        return arguments

    @property
    def after(self) -> list[Run]:
        """The trainings that must have ended before this one."""
        return [*([self.teacher] if self.teacher is not None else []), *self.used]

    @property
    def best(self) -> Path:
        """The checkpoint of its best epoch."""
        return self.folder / "checkpoints" / "best.ckpt"

    def result(self) -> dict[str, Any] | None:
        """What the training gave, if it has ended with this very configuration."""
        path = self.folder / "result.json"
        result: dict[str, Any] | None = json.loads(path.read_text()) if path.is_file() else None
        return result if result is not None and result["fingerprint"] == self.fingerprint else None

    def __str__(self) -> str:
        return " · ".join(filter(None, (self.column, self.row, f"seed {self.seed}")))


def train(runs: Sequence[Run]) -> None:
    """Fits and tests runs that differ only in their seeds, side by side, and writes the ``result.json`` of each.

    A single run that was stopped continues from its last checkpoint. An error becomes the result of the runs that it
    ends; its traceback is in their ``error.txt``.
    """
    _be_quiet()
    if runs[0].threads is not None:
        torch.set_num_threads(runs[0].threads)
    started = time.monotonic()
    for run in runs:
        _clear_unless_same(run)
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


def train_group(runs: list[Run]) -> None:
    """Trains runs one after the other, as one job of a cluster; an error ends only its own run."""
    for run in runs:
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
    cli = CLI(run.arguments(), run=False)
    last = run.folder / "checkpoints" / "last.ckpt"
    kept = _LastMetrics()
    cli.trainer.callbacks.insert(0, kept)  # type: ignore[attr-defined]
    cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=str(last) if last.is_file() else None)
    if not run.best.is_file():
        raise ValueError("no epoch was validated, so there is no best one: check_val_every_n_epoch exceeds max_epochs")
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
        cli = CLI(run.arguments(), run=False)
        set_up(cli)  # before the next command line sets the random state
        clis.append(cli)
    for run, cli, diverged in zip(runs, clis, fit_side_by_side(clis), strict=True):
        if diverged is not None:
            yield ValueError(
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


def _clear_unless_same(run: Run) -> None:
    """Removes from the run's folder what another configuration left there."""
    mark = run.folder / "fingerprint"
    if run.folder.exists() and not (mark.is_file() and mark.read_text() == run.fingerprint):
        shutil.rmtree(run.folder)
    with atomic_write(mark) as draft:
        draft.write_text(run.fingerprint)


def write_result(run: Run, content: dict[str, Any]) -> None:
    """Writes what :meth:`Run.result` reads."""
    with atomic_write(run.folder / "result.json") as draft:
        draft.write_text(json.dumps({"fingerprint": run.fingerprint, **content}, indent=1))


def sentence(error: BaseException) -> str:
    """An error as a table shows it."""
    message = one_line(str(error.args[0])) if error.args else ""
    return message if " " in message else f"{type(error).__name__} {message}".strip()


def _be_quiet() -> None:
    """Silences the messages of a run: the study has a progress bar."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
