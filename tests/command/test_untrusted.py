"""Files of strangers: loading one runs no code of it, a study's outputs stay in its folder and its jobs are its own."""

from __future__ import annotations

import ast
import copy
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pandas as pd
import pytest
import torch
import yaml

import callbacks
import datamodules
from distill import DistillationModule
from distill.cli import main
from distill.command.command_line import Configuration
from distill.command.errors import ConfigurationError
from distill.command.run_folder import path_within
from distill.study.confined import CACHES, EVERY_CLUSTER, FOLDERS, SLURM
from tests.study.test_study import STUDY, plan, write
from tests.test_checkpoint import Payload

ROOT = Path(__file__).parents[2]
CONFIG = {part: STUDY["base"][part] for part in ("model", "data")}
QUICK = [
    *("--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.logger", "false"),
    *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
]


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A checkpoint that makes the folder ``sprung`` when it is unpickled."""
    content = {"pytorch-lightning_version": "2.6", "state_dict": {}, "optimizer_states": [], "epoch": 0}
    torch.save(content | {"hyper_parameters": Payload(tmp_path / "sprung")}, tmp_path / "trap.ckpt")
    return tmp_path / "trap.ckpt"


def config_in(folder: Path) -> list[str]:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(copy.deepcopy(CONFIG) | {"logs_dir": str(folder / "logs")}))
    return ["--config", str(path), *QUICK]


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        main(arguments)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_a_checkpoint_with_code_is_refused_by_every_command(
    command: str, trap: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = error_of([command, *config_in(trap.parent), "--ckpt_path", str(trap)], capsys)
    assert f"{trap} is not a file of plain weights, and loading anything else could run its code" in line
    assert not (trap.parent / "sprung").exists()


def test_a_teacher_with_code_is_refused(trap: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = error_of(["fit", *config_in(trap.parent), "--model.init_args.teacher_checkpoint", str(trap)], capsys)
    assert f"the teacher_checkpoint {trap} is not a file of plain weights" in line
    assert not (trap.parent / "sprung").exists()


def test_a_study_runs_no_code_of_a_teacher_nor_of_a_checkpoint_that_lies_in_a_runs_folder(
    trap: Path, tmp_path: Path
) -> None:
    rows = {"KD": {"model": {"init_args": {"teacher_checkpoint": str(trap)}}}, "student": STUDY["rows"]["student"]}
    changes: dict[str, Any] = {"rows": rows, "columns": {"": {}}, "seeds": 1, "workers": 1, "teacher": None}
    changes["base"] = copy.deepcopy(STUDY["base"]) | {"trainer": {"max_epochs": 1, "accelerator": "cpu"}}
    changes["scores"] = [{"metric": "test/accuracy"}]
    fields = yaml.safe_load(yaml.safe_dump(STUDY | changes | {"logs_dir": str(tmp_path)}))
    (_, run) = plan(tmp_path, **{name: fields[name] for name in changes if name != "scores"}).values()
    (run.folder / "checkpoints").mkdir(parents=True)
    (run.folder / "fingerprint").write_text(run.fingerprint)
    trap.with_name("copy").write_bytes(trap.read_bytes())
    trap.with_name("copy").rename(run.folder / "checkpoints/last.ckpt")
    with pytest.raises(SystemExit, match="all 2 runs failed"):
        main(write(tmp_path, **changes))
    errors = pd.read_csv(tmp_path / "tiny/results.csv").set_index("row")["error"]
    assert errors.str.contains("is not a file of plain weights, and loading anything else could run its code").all()
    assert not (tmp_path / "sprung").exists()


OUTSIDE = ["../other", "a/../../other", "/tmp/other", "", ".", ".."]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_cannot_lead_out_of_its_folder(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"^name must be the name of a folder in .*, got "):
        path_within(tmp_path, name, "name")
    assert "name must be the name of a folder in" in error_of(write(tmp_path, name=name), capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]


def test_names_may_have_parts(tmp_path: Path) -> None:
    assert path_within(tmp_path, "mnistm/teacher", "name") == tmp_path / "mnistm" / "teacher"


@pytest.mark.parametrize("argument", ["name", "version"])
def test_a_run_cannot_leave_the_folder_of_all_runs(
    argument: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = error_of(["fit", *config_in(tmp_path), f"--{argument}", "../../elsewhere"], capsys)
    assert f"{argument} must be the name of a folder in" in line
    assert not (tmp_path / "logs").exists()


def test_rows_and_columns_of_any_name_lie_in_the_folder_of_the_study(tmp_path: Path) -> None:
    names = ["../../out", "/etc/out", "..", "a/b", "~", "C:\\out"]
    rows = dict.fromkeys(names, STUDY["rows"]["student"])
    columns = {name: {"trainer": {"max_epochs": n}} for n, name in enumerate(names, 1)}  # each has its own teacher
    runs = plan(tmp_path, rows=rows, columns=columns, reference=None, seeds=1).values()
    folders = {run.folder.resolve() for run in runs}
    assert len(folders) == len(names) * (len(names) + 1)
    written = [path.resolve() for path in tmp_path.rglob("*")]
    for path in (*folders, *written):
        assert path.is_relative_to(tmp_path / "tiny") or path == tmp_path / "tiny"


@pytest.mark.parametrize("part", ["base", "rows", "columns"])
def test_a_configuration_cannot_move_the_folder_of_its_run(part: str, tmp_path: Path) -> None:
    moved: dict[str, Any] = {"logs_dir": "/tmp/other", "name": "../other", "version": "../other"}
    moved |= {"trainer": {"default_root_dir": "/tmp/other"}}
    changes: dict[str, Any] = {"rows": {"student": {}}, "columns": {"c": {}}, "seeds": 1}
    changes[part] = STUDY["base"] | moved if part == "base" else {"moved": moved}
    for run in plan(tmp_path, **changes, reference=None).values():
        config = Configuration(run.arguments(), run=False).config
        assert Path(config.logs_dir, config.name, config.version) == run.folder
        assert Path(config.trainer.default_root_dir) == run.folder


def callback(kind: str, **arguments: Any) -> dict[str, Any]:
    return {"trainer": {"callbacks": [{"class_path": f"lightning.pytorch.callbacks.{kind}", "init_args": arguments}]}}


def logger(kind: str, **arguments: Any) -> dict[str, Any]:
    return {"trainer": {"logger": {"class_path": f"lightning.pytorch.loggers.{kind}", "init_args": arguments}}}


WRITES = {
    "a checkpoint": (callback("ModelCheckpoint", dirpath="/tmp/other"), "trainer.callbacks.0.init_args.dirpath"),
    "a file that goes up": (callback("ModelCheckpoint", filename="../../{epoch}"), "filename"),
    "a line that goes up": (callback("ModelCheckpoint", filename="a\n/../../../{epoch}"), "filename"),
    "where the command runs": (callback("ModelCheckpoint", dirpath="other"), "dirpath"),
    "home": (callback("ModelCheckpoint", filename="~/other"), "filename"),
    "a logger": (logger("CSVLogger", save_dir="/tmp/other"), "trainer.logger.init_args.save_dir"),
    "a logger's name": (
        logger("CSVLogger", save_dir="{inside}", name="a/../../other"),
        "trainer.logger.init_args.name",
    ),
    "a logger's default": (logger("MLFlowLogger"), "save_dir"),
    "a scheme": (logger("MLFlowLogger", save_dir="{inside}", tracking_uri="file:./other"), "tracking_uri"),
    "a profiler": (
        {"trainer": {"profiler": {"class_path": "SimpleProfiler", "init_args": {"dirpath": "/tmp/other"}}}},
        "trainer.profiler.init_args.dirpath",
    ),
    "a cache": ({"model": {"init_args": {"cache_teacher": "/tmp/other"}}}, "model.init_args.cache_teacher"),
    "a cache of data": (
        {"data": {"class_path": "datamodules.RAVDESS", "init_args": {"root": "/data", "cache_dir": "/tmp/other"}}},
        "data.init_args.cache_dir",
    ),
    "a writer": (
        {"trainer": {"callbacks": [{"class_path": "callbacks.ResponseWriter", "init_args": {"folder": "/tmp/other"}}]}},
        "trainer.callbacks.0.init_args.folder",
    ),
}


def placed(part: dict[str, Any], folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(yaml.safe_dump(part).replace("{inside}", str(folder / "tiny/kept")))
    return content


@pytest.mark.parametrize("case", WRITES)
def test_a_study_names_no_place_to_write_to_outside_of_its_folder(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row, key = WRITES[case]
    rows = {"student": STUDY["rows"]["student"], "odd one": placed(row, tmp_path)}
    line = error_of(write(tmp_path, rows=rows, columns={"": {}}, teacher=None), capsys)
    assert line.startswith("error: row 'odd one', column '': ")
    assert re.search(rf"{re.escape(key)} must lie in the study's folder {tmp_path}/tiny, got '", line)
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_study_cannot_leave_its_folder_by_another_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "trainer.yaml").write_text(yaml.safe_dump(callback("ModelCheckpoint", dirpath="/tmp/other")["trainer"]))
    rows = {"student": {"trainer": str(tmp_path / "trainer.yaml")}}
    line = error_of(write(tmp_path, rows=rows, columns={"": {}}, teacher=None), capsys)
    assert "dirpath must lie in the study's folder" in line


@pytest.mark.parametrize("where", ["../trainer.yaml", "trainer.yaml"])
def test_a_study_cannot_leave_its_folder_by_a_file_that_it_includes(
    where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    writes = callback("ModelCheckpoint", dirpath="/tmp/other")["trainer"]
    (folder / where).write_text(yaml.safe_dump({"rows": {"student": {"trainer": writes}}}))
    line = error_of(write(folder, include=where, columns={"": {}}, teacher=None), capsys)
    assert "dirpath must lie in the study's folder" in line
    (folder / where).write_text(yaml.safe_dump(writes))
    rows = {"student": {"trainer": {"include": where}}}
    line = error_of(write(folder, rows=rows, columns={"": {}}, teacher=None), capsys)
    assert "dirpath must lie in the study's folder" in line


def test_a_study_may_write_into_its_folder_log_to_a_server_and_read_from_anywhere(tmp_path: Path) -> None:
    mlflow = logger("MLFlowLogger", save_dir="{inside}", tracking_uri="https://server/x")["trainer"]
    averaged = callback("ModelCheckpoint", dirpath="{inside}", filename="{epoch}/{step}", monitor="val/accuracy")
    rows = {"student": placed({"trainer": averaged["trainer"] | mlflow}, tmp_path)}
    rows["student"]["model"] = {"init_args": {"cache_teacher": str(tmp_path / "tiny/cache")}}
    rows["read"] = {"data": {"class_path": "datamodules.MNISTM", "init_args": {"patches_dir": "/data/patches"}}}
    assert len(plan(tmp_path, rows=rows, columns={"": {}}, teacher=None, reference=None, seeds=1)) == 2


def test_the_scratch_space_that_deepspeed_names_is_no_folder_that_a_study_names(tmp_path: Path) -> None:
    strategy: dict[str, Any] = {"class_path": "lightning.pytorch.strategies.DeepSpeedStrategy"}
    row = {"trainer": {"strategy": strategy}}
    study: dict[str, Any] = {"columns": {"": {}}, "teacher": None, "reference": None, "seeds": 1}
    assert len(plan(tmp_path, rows={"sharded": row}, **study)) == 1
    strategy["init_args"] = {"nvme_path": "/tmp/other"}
    with pytest.raises(ConfigurationError, match="nvme_path must lie in the study's folder"):
        plan(tmp_path, rows={"sharded": row}, **study)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("slurm_setup", ["touch sprung"], "slurm_setup cannot be set by a study, only name, timeout_min, .* can"),
        ("slurm_teardown", ["touch sprung"], "slurm_teardown cannot be set"),
        ("slurm_additional_parameters", {"wrap": "touch sprung"}, "slurm_additional_parameters cannot be set"),
        ("slurm_srun_args", ["--prolog=sprung"], "slurm_srun_args cannot be set"),
        ("slurm_comment", "a\ntouch sprung", "slurm_comment must be a number or one line of text, got"),
        ("slurm_partition", ["gpu"], "slurm_partition must be a number or one line of text, got"),
    ],
)
def test_a_study_gives_the_jobs_of_a_cluster_no_commands(name: str, value: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        plan(tmp_path, slurm={name: value})


def test_every_parameter_of_jobs_that_a_study_may_set_is_one_of_submitit() -> None:
    jobs = pytest.importorskip("submitit").AutoExecutor
    executors = pytest.importorskip("submitit.core.plugins").get_executors()
    assert set(EVERY_CLUSTER) <= jobs._valid_parameters()
    assert set(SLURM) <= executors["slurm"]._valid_parameters()


def test_every_argument_of_lightning_and_of_this_project_that_takes_a_path_to_write_to_is_known() -> None:
    reads = {"root", "raw_dir", "depth_dir", "disparity_dir", "data_dir", "patches_dir", "train_list", "test_list"}
    reads |= {"responses", "salience", "teacher_checkpoint", "student_checkpoint", "config"}
    packages = (datamodules, callbacks, pl.callbacks, pl.loggers, pl.profilers, pl.strategies)
    named = [pair for package in packages for pair in vars(package).items()]
    kinds: list[type] = [kind for name, kind in named if inspect.isclass(kind) and name[0] != "_"]
    found = set()
    for kind in [*kinds, DistillationModule]:
        arguments = inspect.signature(kind).parameters.values()
        found |= {argument.name for argument in arguments if re.search("Path|_PATH", str(argument.annotation))}
    unknown = {name for name in found - reads if not (CACHES.fullmatch(name) or FOLDERS.fullmatch(name))}
    assert {"cache_dir", "cache_teacher", "save_dir", "dirpath", "folder"} <= found
    assert unknown == {"sub_dir"}


def test_a_row_uses_no_file_outside_of_the_run_that_it_names(tmp_path: Path) -> None:
    rows = {"student": {}, "KD": {"model": {"init_args": {"teacher_checkpoint": "{student}/../../../secret.ckpt"}}}}
    with pytest.raises(ValueError, match="teacher_checkpoint must be the name of a folder in"):
        plan(tmp_path, rows=rows, reference=None)


REASONED = {"pool.py": ["pickle.loads"]}
"""The pool loads what it has dumped itself the line before, to see whether an error survives that."""


def sources() -> Iterator[Path]:
    yield ROOT / "train.py"
    for folder in ("distill", "datamodules", "callbacks"):
        yield from sorted((ROOT / folder).rglob("*.py"))


def dangerous_calls(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        runs_code = name in ("eval", "exec", "__import__", "os.system", "yaml.load", "yaml.unsafe_load", "joblib.load")
        unpickles = name.split(".")[0] in ("pickle", "marshal", "shelve", "dill") and ".load" in name
        loads = name == "torch.load" and keywords.get("weights_only") != "True"
        arrays = name in ("np.load", "numpy.load") and keywords.get("allow_pickle", "False") != "False"
        if runs_code or unpickles or loads or arrays or keywords.get("shell") == "True":
            yield name


def test_no_source_evaluates_or_unpickles_what_it_reads() -> None:
    found = {path: list(dangerous_calls(ast.parse(path.read_text()))) for path in sources()}
    assert len(found) > 100
    assert {path.name: calls for path, calls in found.items() if calls} == REASONED


@pytest.mark.parametrize(
    "source",
    [
        "eval(x)",
        "pickle.load(f)",
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "np.load(p, allow_pickle=True)",
    ],
)
def test_the_scan_finds_what_it_looks_for(source: str) -> None:
    assert list(dangerous_calls(ast.parse(source)))
