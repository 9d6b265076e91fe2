"""A grid of trainings in one table: methods as rows, settings as columns, several seeds of each."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from rich.console import Console

from distill.atomic import atomic_write
from distill.command.command_line import fit_parser
from distill.command.errors import ConfigurationError
from distill.command.run_folder import path_within
from distill.errors import UserError
from distill.study.confined import check_confined, check_job_parameters
from distill.study.depth_comparison import depth_comparison
from distill.study.devices import check_one_device
from distill.study.figure import Panel, split_number, write_figure
from distill.study.lock import HOLDER, announce_jobs, study_lock
from distill.study.plan_file import merged, plan_parser, read_plan, take_policy
from distill.study.pool import run_with_dependencies
from distill.study.progress import progress_bar
from distill.study.run import (
    ANY_DEVICE,
    Policy,
    Run,
    parsed_settings,
    sentence,
    train,
    train_group,
    write_result,
)
from distill.study.run_folder import RESULT
from distill.study.settings import (
    LIBRARY_VERSION,
    digest,
    named_files,
    overlaid,
    own_modules,
    parts_that_matter,
    read_hashes,
    write_hashes,
)
from distill.study.table import Score, write_tables

# parts of configurations are bare dicts, or the parser of a study would make the classes that they name
# mypy: disable-error-code="type-arg"

CODE = ("modules", "library", "code_of_needed")
"""The parts of the record of a run that are no settings."""

STUDENT_OF_METHOD = {"network": "student"} | {
    name: f"student_{name}" for name in ("inputs", "layers", "layout", "checkpoint")
}
"""The arguments of a method for what a column says of its student."""

STUDENT_ALONE = {"network": "network", "inputs": "inputs", "checkpoint": "network_checkpoint"}
"""The same for a module without a teacher, which taps no layers."""

LISTED = {"scores": Score, "panels": Panel}

FILES = ("results.csv", "table.csv", "table.md", "figure.png", "depth.png", "jobs", "compared")
"""What a study or a ranking writes beside the folders of its columns."""

LONGEST_NAME = 200
"""Bytes of the name of a folder; file systems have 255, and a file of a column adds some."""


@dataclass
class Study:
    """What a study file holds.

    A run is configured as by ``fit`` with several ``--config``: ``base``, then its row (or ``teacher``), then its
    column, merged left to right. No run may write outside of ``logs_dir/name``. For every column and seed one teacher
    is trained, and its best checkpoint is the ``teacher_checkpoint`` of the rows of that column and seed.

    Args:
        base: The configuration that all runs share.
        rows: What sets each row apart, by the row's name; mostly ``model``. A row may use files of a run above it, of
            the same column and seed: ``"{student}/checkpoints/best.ckpt"`` lies in the folder of the row ``student``.
        teacher: What sets the teacher's run apart. Without it, rows that need a teacher name their own checkpoint.
        columns: What sets each column apart, by the column's name; mostly ``data``. Where it is the networks, a
            column's ``teacher`` sets its teacher's run apart, and its ``rows``, by name, a row that has other
            networks than most, such as a student without distillation: each in place of the column's ``model``.
            Where it is the student, a column's ``student`` gives its ``network``, ``inputs``, ``layers``, ``layout``
            or ``checkpoint`` to the rows: as ``student``, ``student_inputs`` and so on to a method, as ``network`` and
            ``inputs`` to a row that trains without a teacher. ``{inputs: [depth]}`` is an example. Rows that the
            column sets apart, and the teacher, are left as they are. A teacher that is the same in several columns is
            trained once.
        seeds: The seeds of the runs, or their number, counted from 0. A data module with an argument ``seed`` is given
            the same seed, so that every seed has new data as well, unless base, row or column set it.
        reference: The row that the others are compared with: the student without distillation.
        scores: The columns of numbers in the table, the most important first: metrics of the test, or of the last
            epoch of the fit, as ``train/loss``.
        panels: The parts of the figure, each with a line per row; without panels, the runs are drawn as dots.
        name: The study's folder is ``logs_dir/name``.
        logs_dir: The folder of all studies.
        side_by_side: Whether all seeds of a row and a column train together (see
            :class:`~distill.study.side_by_side.SideBySide`), each as it would alone, up to rounding. It saves time with
            small networks whose step sees the whole training split, and needs one epoch of
            ``data.init_args.steps_per_epoch`` steps. Scores are those of the test, the only part that callbacks see.
        alone: Rows whose seeds train one by one even so; needed for methods that cannot train side by side.
        workers: The number of runs, or of such groups of runs, that train at once.
        cluster: Where runs train: in ``workers`` processes of this machine; as an array of SLURM jobs, one for each
            column and seed; or, to try that out, as such jobs on this machine (``local``).
        slurm: Parameters of the jobs by submitit's names, such as ``slurm_partition`` and ``timeout_min`` (a day by
            default), but none that hold commands, such as ``slurm_setup``.
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
        if min(self.all_seeds, default=-1) < 0:
            raise UserError(f"seeds must be their number, or a list of seeds of 0 or more, got {self.seeds}")
        if len(set(self.all_seeds)) < len(self.all_seeds):
            raise UserError(f"every seed must be named once, got {self.seeds}")
        if self.reference is not None and self.reference not in self.rows:
            raise UserError(
                f"reference {self.reference!r} is not a row; the rows are {', '.join(map(repr, self.rows))}"
            )
        if self.teacher is not None and "teacher" in self.rows:
            raise UserError("a row cannot be named 'teacher' beside the study's teacher: choose another name")
        if self.side_by_side and self.cluster:
            raise UserError("seeds train side by side on this machine, not on a cluster: leave one of the two out")
        self._check_columns()
        self._check_folders()
        self._check_names()
        check_job_parameters(self.slurm)
        path_within(Path(self.logs_dir), self.name, "name")
        if self.workers < 1:
            raise UserError(f"workers must be 1 or more, got {self.workers}")

    def _check_columns(self) -> None:
        """Refuses parts of columns that are not configurations."""
        for name, column in self.columns.items():
            parts = {key: column[key] for key in ("rows", "teacher", "student") if key in column}
            if isinstance(parts.get("rows"), dict):
                parts |= {f"rows.{row}": part for row, part in parts["rows"].items()}
            for key, part in parts.items():
                if not isinstance(part, dict):
                    raise UserError(f"{key} of column {name!r} must hold keys and values, got {part!r}")
            for key in parts.get("student", {}):
                if key not in STUDENT_OF_METHOD:
                    raise UserError(
                        f"student of column {name!r} has no key {key!r}; there are {', '.join(STUDENT_OF_METHOD)}"
                    )

    def _check_folders(self) -> None:
        """Refuses names of rows and columns from which no folder of their own can be made."""
        for what, names in (("row", self.all_rows), ("column", self.columns)):
            if len({_file_name(name) for name in names}) < len(names):
                raise UserError(f"two of {', '.join(map(repr, names))} differ only in special characters: rename one")
            for name in names:
                if len(_file_name(name).encode()) > LONGEST_NAME:
                    raise UserError(
                        f"the {what} {name[:20]!r}... has a name of {len(name)} letters, but its folder can have "
                        f"{LONGEST_NAME}: give it a shorter one"
                    )
        for name in self.columns:
            if _file_name(name) in FILES or re.fullmatch(r"depth_.*\.png", _file_name(name)):
                raise UserError(f"a column cannot be named {name!r}, because the study writes a file of this name")

    def _check_names(self) -> None:
        """Refuses names of rows, columns and scores that the study does not have."""
        rows = [*(["teacher"] if self.teacher is not None else []), *self.rows]
        metrics = [score.metric for score in self.scores]
        asked = [("a panel's score", panel.score, metrics) for panel in self.panels if panel.score is not None]
        lines = {split_number(row)[0] for row in rows}
        for panel in self.panels:
            asked += [("a panel's row", row, [*rows, *lines] if panel.column else rows) for row in panel.rows or ()]
        asked += [("a panel's column", panel.column, list(self.columns)) for panel in self.panels if panel.column]
        asked += [("a row that trains alone", row, rows) for row in self.alone]
        apart = [row for column in self.columns.values() for row in column.get("rows", {})]
        asked += [("a row that a column sets apart", row, list(self.rows)) for row in apart]
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
    def all_rows(self) -> dict[str, dict]:
        """The rows, and above them the teacher where there is one."""
        return ({"teacher": self.teacher} if self.teacher is not None else {}) | self.rows

    @property
    def all_seeds(self) -> list[int]:
        """The seeds one by one."""
        return self.seeds if isinstance(self.seeds, list) else list(range(self.seeds))


def study(arguments: list[str]) -> None:
    """Runs what a study file describes and writes its tables and its figure beside the runs.

    Runs that have a result already are not repeated: a study that was stopped continues. A run that fails is named in
    the table with its error, and ``error.txt`` in its folder has the traceback; the other runs continue. Results of
    other settings are never replaced unless ``--force`` says so.

    Args:
        arguments: The command line after ``study``; see ``python train.py study --help``.
    """
    parser = plan_parser(Study, "study", "Trains a grid of runs and prints one table.")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="Runs these rows, the reference and their teachers.")
    parser.add_argument("--only-column", nargs="+", metavar="COLUMN", help="Runs these columns.")
    parser.add_argument(
        "--print_config",
        nargs="+",
        metavar=("ROW", "COLUMN"),
        help="Prints the configuration of one run, for fit --config; COLUMN may be left out where there is one.",
    )
    fields = read_plan(parser, arguments)
    policy = take_policy(fields)
    rows, columns, printed = (fields.pop(name) for name in ("only", "only_column", "print_config"))
    plan = Study(**fields | {name: [_made(kind, part) for part in fields[name]] for name, kind in LISTED.items()})
    if printed is not None:
        sys.stdout.write(configuration_of(plan, printed))
        return
    with study_lock(plan.folder):
        runs = plan_runs(plan, policy=policy)
        asked = chosen_runs(plan, runs, rows, columns)
        errors = train_runs(plan, asked, policy)
        shown = [run for run in runs if run in asked or run.result() is not None]
        results = [
            _line(run, column, errors.get(run)) for column in plan.columns for run in shown if column in run.columns
        ]
        write_tables(results, plan.scores, plan.reference, plan.folder)
        write_figure(results, plan.panels, plan.scores, plan.reference, plan.folder)
        _compare_depths(shown, plan.folder)
        _say_how_old([run for run in shown if run not in errors], len(shown))
        _say_left_out([run for run in runs if run not in shown and run.other_settings()])
    failures = [error for run in asked if (error := (run.result() or {}).get("error")) is not None]
    if len(failures) == len(asked):
        sys.exit(f"error: all {len(asked)} runs failed, the first one: {failures[0]}")


def chosen_runs(plan: Study, runs: list[Run], rows: list[str] | None, columns: list[str] | None) -> list[Run]:
    """The runs of some rows and columns, those of the reference, and those that they need.

    Args:
        plan: The study.
        runs: All of its runs.
        rows: Names of rows, ``teacher`` among them; all rows by default.
        columns: Names of columns; all columns by default.

    Raises:
        ConfigurationError: There is no row or column of such a name; names those that there are.
    """
    _check_known("row", rows or [], list(plan.all_rows))
    _check_known("column", columns or [], list(plan.columns))
    wanted = {
        run
        for run in runs
        if (rows is None or run.row in (*rows, plan.reference)) and (columns is None or {*run.columns} & {*columns})
    }
    for run in reversed(runs):  # a run needs only runs before it
        if run in wanted:
            wanted.update(run.after)
    return [run for run in runs if run in wanted]


def configuration_of(plan: Study, place: Sequence[str]) -> str:
    """The whole configuration of one run as YAML, which ``fit --config`` takes; its seed is the study's first.

    Args:
        plan: The study.
        place: The name of a row, or ``teacher``, and that of a column, which may be left out where there is one.

    Raises:
        ConfigurationError: There is no row or column of such a name, or a name is missing or too many.
    """
    row, *others = place
    if len(others) > 1 or (not others and len(plan.columns) > 1):
        known = ", ".join(map(repr, plan.columns))
        raise ConfigurationError(f"--print_config takes a row and a column; the columns are {known}")
    (column,) = others or plan.columns
    _check_known("row", [row], list(plan.all_rows))
    _check_known("column", [column], list(plan.columns))
    name = "/".join([plan.name, *([_file_name(column)] if column else []), _file_name(row)])
    run = next(run for run in plan_runs(plan, row, column) if run.row == row and column in run.columns)
    configuration = fit_parser().parse_args([*run.settings_arguments(), "--name", name])
    return str(fit_parser().dump(configuration, skip_unset=False))


def _check_known(what: str, names: list[str], known: list[str]) -> None:
    for name in names:
        if name not in known:
            raise ConfigurationError(f"there is no {what} {name!r}; there are {', '.join(map(repr, known))}")


def train_runs(plan: Study, runs: list[Run], policy: Policy) -> dict[Run, str | None]:
    """Trains the runs that have no result and shows the progress; the result of a run that fails is its error.

    Args:
        plan: The study.
        runs: Its runs, those before others that these need.
        policy: What to do about results of other settings or of other code.

    Returns:
        The runs that were trained, each with its error or ``None``.

    Raises:
        UserError: There are results of other settings, or of other code, and the policy is to refuse.
    """
    to_run = unfinished(runs)
    if policy == "replace":
        to_run = [run for run in runs if run in to_run or run.other_code()]
    else:
        _refuse_to_replace(plan, runs, to_run)
    if policy == "refuse":
        _refuse_to_mix(plan, runs, to_run)
    for run in to_run:
        if not run.other_settings() and (policy == "keep" or not run.other_code()):
            (run.folder / RESULT).unlink(missing_ok=True)  # so that an old error does not look like a new one
    jobs = announce_jobs(plan.folder) if to_run else ""
    errors: dict[Run, str | None] = {}
    with progress_bar(plan.name, len(runs), len(runs) - len(to_run)) as ended:
        for run, error in _train_on_cluster(plan, to_run, jobs) if plan.cluster else _train_here(plan, to_run):
            errors[run] = error
            if error is not None and (run.result() or {}).get("error") != error:
                write_result(run, {"error": error})
            ended(run, error, _in_short(run, plan.scores))
    return errors


def _refuse_to_replace(plan: Study, runs: list[Run], to_run: list[Run]) -> None:
    others = {run: found for run in to_run if (found := run.other_settings())}
    if others:
        run, found = min(others.items(), key=lambda other: len(other[1]))
        raise UserError(
            f"{plan.folder} has results of other settings for {len(others)} of {len(runs)} runs, such as {run}: "
            f"{_some(found)}: give another --name to keep them, or add --force to replace them"
        )


def _refuse_to_mix(plan: Study, runs: list[Run], to_run: list[Run]) -> None:
    """Refuses results of other code, unless only the version of this library differs and no new ones stand beside."""
    others = {run: found for run in runs if (found := run.other_code())}
    if others and (to_run or any(run.other_modules() for run in others)):
        run, found = next(iter(others.items()))
        raise UserError(
            f"{plan.folder} has results of other code for {len(others)} of {len(runs)} runs, such as {run}: "
            f"{_some(found)}: add --keep to take them as they are, or --force to train these runs again"
        )


def _some(texts: list[str]) -> str:
    return ", ".join(texts[:3]) + (f", and {len(texts) - 3} more" if len(texts) > 3 else "")


def _in_short(run: Run, scores: list[Score]) -> str:
    """The scores and the time of a run, as a line of a log shows them."""
    result = run.result() or {}
    found = result.get("scores", {})
    parts = [f"{s.heading} {found[s.metric] * s.scale:.{s.digits}f}" for s in scores if s.metric in found]
    return ", ".join([*parts, *([f"{result['seconds']} s"] if "seconds" in result else [])])


def _say_how_old(runs: list[Run], total: int) -> None:
    """Prints when the results of runs were made that were not trained now, and by which other code."""
    results = {run: result for run in runs if (result := run.result()) is not None}
    if not results:
        return
    console = Console()
    dates = sorted(_date(run, result) for run, result in results.items())
    period = " to ".join(dict.fromkeys((dates[0], dates[-1])))
    console.print(f"{len(results)} of {total} runs are from {period}", markup=False, highlight=False, soft_wrap=True)
    others = {run: found for run in results if (found := run.other_code())}
    if others:
        text = f"{len(others)} of {total} runs are of other code: {_some(next(iter(others.values())))}; "
        console.print(text + "--force trains them again", style="red", markup=False, highlight=False, soft_wrap=True)


def _say_left_out(runs: list[Run]) -> None:
    """Prints how many runs of the study have results of other settings, which the table does not show."""
    if runs:
        text = f"{len(runs)} more runs have results of other settings, such as {runs[0]}; they are not in the table"
        Console().print(text, markup=False, highlight=False, soft_wrap=True)


def _date(run: Run, result: Mapping[str, Any]) -> str:
    if "ended" in result:
        return str(result["ended"])[:16].replace("T", " ")
    return datetime.fromtimestamp((run.folder / RESULT).stat().st_mtime).strftime("%Y-%m-%d %H:%M")


def _made(kind: type, asked: Any) -> Any:
    return asked if isinstance(asked, kind) else kind(**asked)


def plan_runs(
    plan: Study, only_row: str | None = None, only_column: str | None = None, *, policy: Policy = "refuse"
) -> list[Run]:
    """The trainings of a study, teachers before the rows that need them.

    Args:
        plan: The study.
        only_row: The one row to plan, with the rows that it needs; all rows by default.
        only_column: The one column to plan, with the teachers that an earlier column may share with it; all columns by
            default.
        policy: What the runs do about results of other settings or of other code in their folders.

    Raises:
        ConfigurationError: A row, a column or the teacher is not a valid configuration, or would write outside of the
            study's folder; names it.
        ValueError: Two rows or columns would share a folder.
    """
    rows = plan.all_rows
    parts = _parts(plan)
    texts = {name: yaml.safe_dump(part, sort_keys=False) for name, part in parts.items()}
    hashes = read_hashes(plan.folder)
    runs: dict[tuple[str, str, int], Run] = {}
    for column, row in _places(plan, only_row, only_column):
        configs, part = _configs(plan, column, row, parts, texts)
        config = _parse(column, row, configs, plan.folder)
        is_teacher = plan.teacher is not None and row == "teacher"
        learns = plan.teacher is not None and not is_teacher and _lacks_teacher_weights(config.model)
        named = {key for given in (plan.base, rows[row], part) for key in _data_seeds(given.get("data") or {})}
        data_seeds = [key for key in _data_seeds(config.data) if key not in named]
        parsed = parts_that_matter(config.as_dict())
        settings = overlaid(overlaid(overlaid({}, plan.base), rows[row]), part)
        files, modules = named_files(parsed, plan.folder, hashes), own_modules(parsed)
        for seed in plan.all_seeds:
            teacher = runs[column, "teacher", seed] if learns else None
            used = {key: (_run_used(runs, column, row, name, seed), file) for key, name, file in _used(rows[row])}
            before = [*([teacher] if teacher else []), *(run for run, _ in used.values())]
            after = [run.fingerprint for run in before]
            run = Run(
                column=column,
                row=row,
                seed=seed,
                folder=plan.folder / _file_name(column) / _file_name(row) / f"seed_{seed}",
                configs=configs,
                fingerprint=digest([settings, files, seed, bool(data_seeds), after]),
                settings=(
                    *((f"data.{key}", str(seed)) for key in data_seeds),
                    *((key, str(path_within(run.folder, file, key))) for key, (run, file) in used.items()),
                    *([ANY_DEVICE] if config.trainer.devices == "auto" else []),
                ),
                threads=None if plan.cluster else max(1, torch.get_num_threads() // plan.workers),
                teacher=teacher,
                used=tuple(dict.fromkeys(run for run, _ in used.values())),
                policy=policy,
            )
            run.record.update(
                settings=settings,
                files=files,
                after=after,
                modules=modules,
                library=LIBRARY_VERSION,
                code_of_needed=digest([[run.record[part] for part in CODE] for run in before]),
                parsed=parsed_settings(parsed, run.chosen_keys),
            )
            runs[column, row, seed] = _shared(run, runs) if is_teacher else run
    if only_row is None and (plan.folder / HOLDER).is_file():  # a folder that a study works in
        write_hashes(plan.folder, hashes)
    return list(dict.fromkeys(runs.values()))


def _places(plan: Study, only_row: str | None, only_column: str | None) -> Iterator[tuple[str, str]]:
    """The columns and rows to plan, each teacher before its rows."""
    rows = list(plan.all_rows) if only_row is None else _with_needed(plan, only_row)
    for column in plan.columns:
        for row in rows:
            if row == "teacher" or only_column in (None, column):
                yield column, row
        if column == only_column:
            return


def _configs(
    plan: Study, column: str, row: str, parts: Mapping[str, dict], texts: Mapping[str, str]
) -> tuple[tuple[str, ...], dict]:
    """The configurations of a run as YAML, which are merged left to right, and the last one of them, the column's."""
    apart = f"columns/{_file_name(column)}/{_file_name(row)}"
    setting = apart if apart in parts else f"columns/{_file_name(column)}"
    configs = tuple(texts[name] for name in ("base", f"rows/{_file_name(row)}", setting))
    student = plan.columns[column].get("student")
    if not student or setting == apart or (row == "teacher" and plan.teacher is not None):
        return configs, parts[setting]
    part = merged(parts[setting], _of_student(student, _parse(column, row, configs, plan.folder).model))
    return (*configs[:-1], yaml.safe_dump(part, sort_keys=False)), part


def _of_student(student: dict, model: Any) -> dict:
    """What a column says of its student, as a part of the configuration of a row with this model."""
    names = STUDENT_OF_METHOD if "student_inputs" in model.init_args else STUDENT_ALONE
    return {"model": {"init_args": {names[key]: value for key, value in student.items() if key in names}}}


def _shared(teacher: Run, runs: Mapping[tuple[str, str, int], Run]) -> Run:
    """The teacher of an earlier column with the same settings, which is trained for both, or else the teacher."""
    for (_, row, _), other in runs.items():
        if row == "teacher" and other.fingerprint == teacher.fingerprint:
            other.also_in.append(teacher.column)
            return other
    return teacher


def _parts(plan: Study) -> dict[str, dict]:
    """The parts that are merged into the configuration of a run, by name."""
    parts = {"base": plan.base} | {f"rows/{_file_name(name)}": part for name, part in plan.all_rows.items()}
    for name, column in plan.columns.items():
        common = {key: value for key, value in column.items() if key not in ("rows", "teacher", "student")}
        shared = {key: value for key, value in common.items() if key != "model"}
        apart = column.get("rows", {}) | ({"teacher": column["teacher"]} if "teacher" in column else {})
        parts[f"columns/{_file_name(name)}"] = common
        parts |= {f"columns/{_file_name(name)}/{_file_name(row)}": shared | part for row, part in apart.items()}
    return parts


def _with_needed(plan: Study, row: str) -> list[str]:
    """The row and those above it whose files it may use."""
    needed = {row, "teacher"}
    for name, part in reversed(plan.all_rows.items()):
        if name in needed:
            needed.update(used for _, used, _ in _used(part))
    return [name for name in plan.all_rows if name in needed]


def _used(part: dict, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """The keys of a configuration whose values are files of other runs, each with the row's name and the file."""
    for key, value in part.items():
        if isinstance(value, dict):
            yield from _used(value, f"{prefix}{key}.")
        elif isinstance(value, str) and (match := re.fullmatch(r"\{(.+?)\}/(.+)", value)):
            yield f"{prefix}{key}", match[1], match[2]


def _run_used(runs: dict[tuple[str, str, int], Run], column: str, row: str, name: str, seed: int) -> Run:
    if (column, name, seed) not in runs:
        above = ", ".join(dict.fromkeys(repr(row) for _, row, _ in runs))
        raise UserError(
            f"row {row!r} uses a file of {name!r}, which is not a row above it; those are {above or 'none'}"
        )
    return runs[column, name, seed]


def unfinished(runs: list[Run]) -> list[Run]:
    """The runs without scores, and the runs that these need and whose checkpoint is gone."""
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


def _train_on_cluster(plan: Study, runs: list[Run], jobs: str) -> Iterator[tuple[Run, str | None]]:
    try:
        import submitit
    except ImportError:
        raise UserError("cluster needs the extra slurm: pip install 'crossdistill[slurm]'") from None
    groups: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        for column in run.columns:  # the first job that comes to a teacher of several columns trains it
            groups.setdefault((column, run.seed), []).append(run)
    jobs_of = Counter(run for group in groups.values() for run in group)
    executor = submitit.AutoExecutor(folder=plan.folder / "jobs", cluster=plan.cluster)
    executor.update_parameters(**{"timeout_min": 24 * 60, **plan.slurm})
    submitted = executor.map_array(train_group, list(groups.values()), [jobs] * len(groups))
    runs_of = dict(zip(submitted, groups.values(), strict=True))
    for job in submitit.helpers.as_completed(list(runs_of), poll_frequency=1):
        error = job.exception()
        for run in runs_of[job]:
            jobs_of[run] -= 1
            if jobs_of[run]:
                continue
            result = run.result() or {"error": sentence(error) if error else "its job left no result"}
            yield run, result.get("error")


def _parse(column: str, row: str, configs: tuple[str, ...], folder: Path) -> Any:
    arguments = [part for text in configs for part in ("--config", text)]
    try:
        config = fit_parser().parse_args(arguments)
        check_confined(config, folder)
        check_one_device(config.trainer)
        return config
    except (ConfigurationError, ValueError) as error:
        raise ConfigurationError(f"row {row!r}, column {column!r}: {error}") from None


def _lacks_teacher_weights(model: Any) -> bool:
    return "teacher_checkpoint" in model.init_args and model.init_args.teacher_checkpoint is None


def _data_seeds(data: Any) -> list[str]:
    """The keys of the seeds of a data module and of the one that it wraps."""
    arguments = data.get("init_args") or {}
    own = ["init_args.seed"] if "seed" in arguments else []
    wrapped = arguments.get("data")
    return own + ([f"init_args.data.{key}" for key in _data_seeds(wrapped)] if hasattr(wrapped, "get") else [])


def _line(run: Run, column: str, error: str | None) -> dict[str, Any]:
    result = run.result() or ({"error": error} if error is not None else {})
    line = {"column": column, "row": run.row, "seed": run.seed, **result.get("scores", {})}
    return line | {key: result[key] for key in ("seconds", "error") if key in result}


def _compare_depths(runs: list[Run], folder: Path) -> None:
    """Draws the depths of the runs of the first seed, if ``DepthGallery`` kept them."""
    for column in dict.fromkeys(column for run in runs for column in run.columns):
        first_seed = [run for run in runs if column in run.columns and run.seed == runs[0].seed]
        files = {run.row: run.folder / "figures" / "depth_test.npz" for run in first_seed}
        kept = {row: file for row, file in files.items() if file.is_file()}
        if kept:
            with atomic_write(folder / f"depth{column and '_'}{column and _file_name(column)}.png") as draft:
                depth_comparison(kept).savefig(draft, dpi=150)


def _file_name(name: str) -> str:
    return re.sub(r"^\.|[^\w.+-]+", "_", name) or "runs"
