"""A grid of trainings, gathered in one table: methods as rows, settings as columns, several seeds of each."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TimeElapsedColumn

from distill.atomic import atomic_write
from distill.command.command_line import Configuration
from distill.command.errors import ConfigurationError
from distill.command.run_folder import path_within
from distill.errors import UserError
from distill.study.confined import check_confined, check_job_parameters
from distill.study.depth_comparison import depth_comparison
from distill.study.figure import Panel, split_number, write_figure
from distill.study.plan_file import read_plan
from distill.study.pool import run_with_dependencies
from distill.study.run import Run, sentence, train, train_group, write_result
from distill.study.table import Score, write_tables

# parts of configurations are bare dicts, or the parser of a study would make the classes that they name
# mypy: disable-error-code="type-arg"

LISTED = {"scores": Score, "panels": Panel}


@dataclass
class Study:
    """What a study file holds.

    Each run is configured as by ``fit`` with several ``--config``: ``base``, then its row (or ``teacher``), then its
    column, merged left to right. None may name a place to write to outside of ``logs_dir/name``. For every column and
    seed one teacher is trained, and its best checkpoint is the ``teacher_checkpoint`` of that column's and seed's rows.

    Args:
        base: The configuration that all runs share.
        rows: What sets each row apart, by the row's name; mostly ``model``. A row may use files of a run above it, of
            the same column and seed: ``"{student}/checkpoints/best.ckpt"`` lies in the folder of the row ``student``.
        teacher: What sets the teacher's run apart; without it rows that need a teacher name their own checkpoint.
        columns: What sets each column apart, by the column's name; mostly ``data``. Where it is the networks, a
            column's ``teacher`` sets its teacher's run apart, in place of the column's ``model``.
        seeds: The seeds of the runs, or how many, counted from 0. A data module with an argument ``seed`` is given the
            same one, so that every seed is new data as well, unless base, row or column set it.
        reference: The row that the others are compared with: the student without distillation.
        scores: The columns of numbers in the table, the most important first: metrics of the test, or of the last
            epoch of the fit, as ``train/loss``.
        panels: The figure's parts, each with a line a row over the columns; without, the runs are drawn as dots.
        name: The study's folder is ``logs_dir/name``.
        logs_dir: The folder of all studies.
        side_by_side: Whether all seeds of a row and a column train in one step for all (see
            :class:`~distill.study.side_by_side.SideBySide`), each as it would alone, to rounding. It spares time where
            networks are small and a step sees the whole training split, and needs one epoch of
            ``data.init_args.steps_per_epoch`` steps. Scores are those of the test; callbacks hear that alone.
        alone: Rows whose seeds train one by one all the same, as those of methods that cannot do otherwise must.
        workers: How many runs, or such groups of runs, train at once.
        cluster: Where runs train: in ``workers`` processes of this machine; as an array of SLURM jobs, one for each
            column and seed; or, to try that out, as such jobs on this machine (``local``).
        slurm: Parameters of the jobs by submitit's names, such as ``slurm_partition`` and ``timeout_min`` (a day
            unless said otherwise); none that hold commands, such as ``slurm_setup``.
    """

    base: dict
    rows: dict[str, dict]
    teacher: dict | None = None
    columns: dict[str, dict] = field(default_factory=lambda: {"": {}})
    seeds: int | list[int] = 1
    reference: str | None = None
    scores: list[Score] = field(default_factory=lambda: [Score("test/accuracy", "accuracy [%]", scale=100, digits=1)])
    panels: list[Panel] = field(default_factory=list)
    name: str = "study"
    logs_dir: str = "logs/studies"
    side_by_side: bool = False
    alone: list[str] = field(default_factory=list)
    workers: int = 2
    cluster: Literal["slurm", "local"] | None = None
    slurm: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for part in ("rows", "columns", "scores", "seeds"):
            if not getattr(self, part):
                raise UserError(f"a study needs {part}, got {getattr(self, part)!r}")
        if len(set(self.all_seeds)) < len(self.all_seeds):
            raise UserError(f"every seed must be named once, got {self.seeds}")
        if self.reference is not None and self.reference not in self.rows:
            raise UserError(f"reference {self.reference!r} is no row; the rows are {', '.join(map(repr, self.rows))}")
        if self.teacher is not None and "teacher" in self.rows:
            raise UserError("a row cannot be named 'teacher' beside the study's teacher: choose another name")
        if self.side_by_side and self.cluster:
            raise UserError("seeds train side by side on this machine, not on a cluster: leave one of the two out")
        self._check_names()
        check_job_parameters(self.slurm)
        path_within(Path(self.logs_dir), self.name, "name")
        if self.workers < 1:
            raise UserError(f"workers must be 1 or more, got {self.workers}")

    def _check_names(self) -> None:
        """Refuses what is said of a row, column or score that the study has not."""
        rows = [*(["teacher"] if self.teacher is not None else []), *self.rows]
        metrics = [score.metric for score in self.scores]
        asked = [("a panel's score", panel.score, metrics) for panel in self.panels if panel.score is not None]
        lines = {split_number(row)[0] for row in rows}
        for panel in self.panels:
            asked += [("a panel's row", row, [*rows, *lines] if panel.column else rows) for row in panel.rows or ()]
        asked += [("a panel's column", panel.column, list(self.columns)) for panel in self.panels if panel.column]
        asked += [("a row that trains alone", row, rows) for row in self.alone]
        for score in self.scores:
            asked += [(f"a row of the paper's {score.metric}", row, rows) for row in score.paper]
            places = [column for values in score.paper.values() if isinstance(values, dict) for column in values]
            asked += [(f"a column of the paper's {score.metric}", column, list(self.columns)) for column in places]
        for what, name, known in asked:
            if name not in known:
                raise UserError(f"{what} is {name!r}, but there are {', '.join(map(repr, known))}")
        for panel in self.panels:
            drawn = [row for row in rows if panel.rows is None or {row, split_number(row)[0]} & set(panel.rows)]
            if panel.column and all(split_number(row)[1] is None for row in drawn):
                raise UserError(
                    f"a panel of column {panel.column!r} draws over numbers, but no row that it draws ends with one"
                )
        if self.reference is None and any(panel.difference for panel in self.panels):
            raise UserError("a panel draws differences, but the study names no reference")

    @property
    def folder(self) -> Path:
        """Where the runs and the tables are written."""
        return Path(self.logs_dir, self.name)

    @property
    def all_seeds(self) -> list[int]:
        """The seeds one by one."""
        return self.seeds if isinstance(self.seeds, list) else list(range(self.seeds))


def study(arguments: list[str]) -> None:
    """Runs what a study file describes and writes its tables and its figure beside the runs.

    Runs that have a result already are not repeated, so a study that was stopped goes on. One that fails is named in
    the table with its error, of which ``error.txt`` in its folder tells more; the others go on.

    Args:
        arguments: The command line after ``study``; see ``python train.py study --help``.
    """
    fields = read_plan(Study, "study", "Trains a grid of runs and prints one table.", arguments)
    plan = Study(**fields | {name: [_made(kind, part) for part in fields[name]] for name, kind in LISTED.items()})
    runs = plan_runs(plan)
    train_runs(plan, runs)
    results = [_line(run) for run in runs]
    write_tables(results, plan.scores, plan.reference, plan.folder)
    write_figure(results, plan.panels, plan.scores, plan.reference, plan.folder)
    _compare_depths(runs, plan.folder)


def train_runs(plan: Study, runs: list[Run]) -> None:
    """Trains those that have no result yet and shows how far they are; one that fails has its error as result."""
    to_run = unfinished(runs)
    for run in to_run:
        (run.folder / "result.json").unlink(missing_ok=True)  # or an old error would pass for a new one
    with Progress(SpinnerColumn(), *Progress.get_default_columns(), TimeElapsedColumn()) as progress:
        bar = progress.add_task(plan.name, total=len(runs), completed=len(runs) - len(to_run))
        for run, error in _train_on_cluster(plan, to_run) if plan.cluster else _train_here(plan, to_run):
            progress.update(bar, advance=1, description=escape(str(run)))
            if error is not None:
                progress.console.print(f"{run} failed: {error}", style="red", markup=False)
                write_result(run, {"error": error})


def _made(kind: type, asked: Any) -> Any:
    return asked if isinstance(asked, kind) else kind(**asked)


def plan_runs(plan: Study) -> list[Run]:
    """All trainings of a study, teachers before the rows that need them; writes their configurations.

    Raises:
        ConfigurationError: A row, a column or the teacher is no configuration of a fit, or would write outside of the
            study's folder; names it.
        ValueError: Two rows or columns would share a folder.
    """
    rows = ({"teacher": plan.teacher} if plan.teacher is not None else {}) | plan.rows
    for names in (rows, plan.columns):
        if len({_file_name(name) for name in names}) < len(names):
            raise UserError(f"of {', '.join(map(repr, names))} two differ only in special characters: rename one")
    parts = {"base": plan.base}
    parts |= {f"columns/{_file_name(name)}": _of_rows(part) for name, part in plan.columns.items()}
    parts |= {f"teachers/{_file_name(name)}": _of_teacher(part) for name, part in plan.columns.items()}
    parts |= {f"rows/{_file_name(name)}": part for name, part in rows.items()}
    files = {name: plan.folder / "configs" / f"{name}.yaml" for name in parts}
    for name, path in files.items():
        with atomic_write(path) as draft:
            draft.write_text(yaml.safe_dump(parts[name], sort_keys=False))
    runs: dict[tuple[str, str, int], Run] = {}
    for column in plan.columns:
        for row in rows:
            setting = f"{'teachers' if row == 'teacher' else 'columns'}/{_file_name(column)}"
            part = parts[setting]
            merged = ("base", f"rows/{_file_name(row)}", setting)
            configs = tuple(files[name] for name in merged)
            config = _parse(column, row, configs, plan.folder)
            learns = plan.teacher is not None and row != "teacher" and _lacks_teacher_weights(config.model)
            named = {key for given in (plan.base, rows[row], part) for key in _data_seeds(given.get("data") or {})}
            data_seeds = [key for key in _data_seeds(config.data) if key not in named]
            for seed in plan.all_seeds:
                teacher = runs[column, "teacher", seed] if learns else None
                used = {key: (_run_used(runs, column, row, name, seed), file) for key, name, file in _used(rows[row])}
                content = [plan.base, rows[row], part, seed, bool(data_seeds), teacher.fingerprint if teacher else None]
                content += [run.fingerprint for run, _ in used.values()]
                runs[column, row, seed] = Run(
                    column=column,
                    row=row,
                    seed=seed,
                    folder=plan.folder / _file_name(column) / _file_name(row) / f"seed_{seed}",
                    configs=configs,
                    fingerprint=hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16],
                    settings=(
                        *((f"data.{key}", str(seed)) for key in data_seeds),
                        *((key, str(path_within(run.folder, file, key))) for key, (run, file) in used.items()),
                    ),
                    threads=None if plan.cluster else max(1, torch.get_num_threads() // plan.workers),
                    teacher=teacher,
                    used=tuple(dict.fromkeys(run for run, _ in used.values())),
                )
    return list(runs.values())


def _used(part: dict, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """The keys of a configuration whose values are files of other runs, with the row's name and the file."""
    for key, value in part.items():
        if isinstance(value, dict):
            yield from _used(value, f"{prefix}{key}.")
        elif isinstance(value, str) and (match := re.fullmatch(r"\{(.+?)\}/(.+)", value)):
            yield f"{prefix}{key}", match[1], match[2]


def _run_used(runs: dict[tuple[str, str, int], Run], column: str, row: str, name: str, seed: int) -> Run:
    if (column, name, seed) not in runs:
        above = ", ".join(dict.fromkeys(repr(row) for _, row, _ in runs))
        raise UserError(f"row {row!r} uses a file of {name!r}, which is no row above it; those are {above or 'none'}")
    return runs[column, name, seed]


def _of_rows(column: dict) -> dict:
    return {key: value for key, value in column.items() if key != "teacher"}


def _of_teacher(column: dict) -> dict:
    """What a column says of its teacher's run."""
    if "teacher" not in column:
        return column
    shared = {key: value for key, value in column.items() if key not in ("model", "teacher")}
    return {**shared, **column["teacher"]}


def unfinished(runs: list[Run]) -> list[Run]:
    """Those without scores, and those whose checkpoint is gone on which one that is to run builds."""
    to_run: list[Run] = []
    needed: set[Run] = set()
    for run in reversed(runs):  # a run builds only on those before it
        if "scores" not in (run.result() or {}) or (run in needed and not run.best.is_file()):
            to_run.insert(0, run)
            needed.update(run.after)
    return to_run


def _train_here(plan: Study, runs: list[Run]) -> Iterator[tuple[Run, str | None]]:
    groups: dict[tuple[str, str, int | None], list[Run]] = {}
    for run in runs:
        together = plan.side_by_side and run.row not in plan.alone
        groups.setdefault((run.column, run.row, None if together else run.seed), []).append(run)
    group_of = {run: tuple(group) for group in groups.values() for run in group}
    after = {
        group: list(dict.fromkeys(group_of[other] for run in group for other in run.after if other in group_of))
        for group in group_of.values()
    }
    for group, error in run_with_dependencies(train, after, workers=plan.workers, preload=[__name__]):
        for run in group:
            yield run, (run.result() or {}).get("error") if error is None else sentence(error)


def _train_on_cluster(plan: Study, runs: list[Run]) -> Iterator[tuple[Run, str | None]]:
    try:
        import submitit
    except ImportError:
        raise UserError("cluster needs the extra slurm: pip install 'crossdistill[slurm]'") from None
    groups: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.column, run.seed), []).append(run)
    executor = submitit.AutoExecutor(folder=plan.folder / "jobs", cluster=plan.cluster)
    executor.update_parameters(**{"timeout_min": 24 * 60, **plan.slurm})
    jobs = dict(zip(executor.map_array(train_group, list(groups.values())), groups.values(), strict=True))
    for job in submitit.helpers.as_completed(list(jobs), poll_frequency=1):
        error = job.exception()
        for run in jobs[job]:
            result = run.result() or {"error": sentence(error) if error else "its job left no result"}
            yield run, result.get("error")


def _parse(column: str, row: str, configs: tuple[Path, ...], folder: Path) -> Any:
    arguments = [part for path in configs for part in ("--config", str(path))]
    try:
        config = Configuration(arguments, run=False).config
        check_confined(config, folder)
        return config
    except (ConfigurationError, ValueError) as error:
        raise ConfigurationError(f"row {row!r}, column {column!r}: {error}") from None


def _lacks_teacher_weights(model: Any) -> bool:
    return "teacher_checkpoint" in model.init_args and model.init_args.teacher_checkpoint is None


def _data_seeds(data: Any) -> list[str]:
    """The keys of the seeds of a data module and of one that it wraps."""
    arguments = data.get("init_args") or {}
    own = ["init_args.seed"] if "seed" in arguments else []
    wrapped = arguments.get("data")
    return own + ([f"init_args.data.{key}" for key in _data_seeds(wrapped)] if hasattr(wrapped, "get") else [])


def _line(run: Run) -> dict[str, Any]:
    result = run.result() or {}
    line = {"column": run.column, "row": run.row, "seed": run.seed, **result.get("scores", {})}
    return line | {key: result[key] for key in ("seconds", "error") if key in result}


def _compare_depths(runs: list[Run], folder: Path) -> None:
    """Draws what the runs of the first seed say about the same scenes, where ``DepthGallery`` kept it."""
    for column in dict.fromkeys(run.column for run in runs):
        first_seed = [run for run in runs if run.column == column and run.seed == runs[0].seed]
        files = {run.row: run.folder / "figures" / "depth_test.npz" for run in first_seed}
        kept = {row: file for row, file in files.items() if file.is_file()}
        if kept:
            with atomic_write(folder / f"depth{column and '_'}{column and _file_name(column)}.png") as draft:
                depth_comparison(kept).savefig(draft, dpi=150)


def _file_name(name: str) -> str:
    return re.sub(r"^\.|[^\w.+-]+", "_", name) or "runs"
