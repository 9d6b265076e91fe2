"""Results stay: nothing is replaced, mixed or shown as new without a word, and two studies do not share a folder."""

from __future__ import annotations

import copy
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import yaml
from lightning.pytorch import Trainer

from distill.atomic import atomic_write
from distill.cli import main
from distill.errors import UserError
from distill.study import run_folder, settings
from distill.study.devices import device_of
from distill.study.lock import announce_jobs, check_latest, run_lock, study_lock
from distill.study.run import Run, train, train_group, write_result
from distill.study.study import Study, plan_runs
from distill.study.table import Score
from tests.processes import start_process
from tests.study.test_study import LINEAR
from tests.waiting import processes_of_session, wait_until

SUPERVISED: dict[str, Any] = {
    "class_path": "distill.Supervised",
    "init_args": {
        "network": LINEAR,
        "inputs": ["x_b"],
        "task": {"class_path": "distill.Classification", "init_args": {"num_classes": 2}},
        "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
    },
}
SMALL: dict[str, Any] = {
    "name": "small",
    "seeds": 2,
    "workers": 1,
    "base": {
        "model": SUPERVISED,
        "data": {"class_path": "datamodules.GaussianPair", "init_args": {"train_size": 20, "val_size": 9}},
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "logger": False},
    },
    "rows": {"student": {}},
}
MODULE = "import helper_of_mine\nfrom distill.models import MLP\n\n\nclass Mine(MLP):\n    pass\n"


def write(folder: Path, **changes: Any) -> list[str]:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(copy.deepcopy(SMALL) | {"logs_dir": str(folder)} | changes, sort_keys=False))
    return ["study", "--config", str(path)]


def plan(folder: Path, policy: Any = "refuse", **changes: Any) -> list[Run]:
    fields: dict[str, Any] = copy.deepcopy(SMALL) | {"logs_dir": str(folder), "scores": [Score("x")]} | changes
    return plan_runs(Study(**fields), policy=policy)


def based(part: str, **arguments: Any) -> dict[str, Any]:
    """The base with other arguments of a part."""
    base: dict[str, Any] = copy.deepcopy(SMALL["base"])
    (base[part]["init_args"] if "init_args" in base[part] else base[part]).update(arguments)
    return base


def files_in(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """All files of the runs, with their contents and the times of their changes."""
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("seed_*/**/*") if path.is_file()
    }


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    main(write(folder))
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of a finished study."""
    shutil.copytree(finished / "small", tmp_path / "small")
    return tmp_path


@pytest.fixture(autouse=True)
def _loud(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.study.run._be_quiet", lambda: None)  # for good, in the process of the tests


def test_a_trial_in_the_folder_of_a_finished_study_is_refused_and_going_back_finds_everything(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_in(folder)
    line = refused([*write(folder), "--base.trainer.max_epochs", "2"], capsys)
    assert line == (
        f"error: {folder}/small has results of other settings for 2 of 2 runs, such as student · seed 0: "
        "trainer.max_epochs was 1 and is now 2: give another --name to keep them, or add --force to replace them"
    )
    main(write(folder))
    assert files_in(folder) == before
    assert "2 of 2 runs are from 20" in capsys.readouterr().out


def test_force_replaces_what_the_study_wrote_and_keeps_what_the_user_put_there(folder: Path) -> None:
    run = folder / "small/runs/student/seed_0"
    own = [run / "notes.md", run / "checkpoints/mine.ckpt", run / "figures/mine.png"]
    for path in own:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    main([*write(folder, seeds=1), "--base.trainer.max_epochs", "2", "--force"])
    assert [path.read_text() for path in own] == ["mine"] * 3
    assert yaml.safe_load((run / "fit.yaml").read_text())["trainer"]["max_epochs"] == 2
    assert not (run / "replaced").exists()
    other = folder / "small/runs/student/seed_1"
    assert yaml.safe_load((other / "fit.yaml").read_text())["trainer"]["max_epochs"] == 1


def test_results_of_other_settings_that_the_table_leaves_out_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = write(tmp_path, seeds=1, rows={"student": {}, "twin": {}})
    main(command)
    main([*command, "--only", "student", "--base.trainer.max_epochs", "2", "--force"])
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "more runs" in line)
    assert line == "1 more runs have results of other settings, such as twin · seed 0; they are not in the table"


@pytest.mark.parametrize("moment", ["while it moves files", "while it trains"])
def test_a_force_that_is_interrupted_loses_nothing(moment: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    before = {path: content for path, (_, content) in files_in(folder).items()}
    (forced, _) = plan(folder, "replace", base=based("trainer", max_epochs=2))
    with monkeypatch.context() as patch:
        if moment == "while it trains":
            patch.setattr(Trainer, "fit", killed)
        else:
            moved = Path.replace

            def move_three(path: Path, target: Path) -> Path:
                if len(list(forced.folder.rglob("replaced/**/*.*"))) > 2:
                    killed()
                return moved(path, target)

            patch.setattr(Path, "replace", move_three)
        with pytest.raises(KeyboardInterrupt):
            train([forced])
    (run, _) = plan(folder, "replace")
    train([run])
    assert {path: content for path, (_, content) in files_in(folder).items()} == before


def test_a_worker_that_meets_results_of_another_run_leaves_them(folder: Path) -> None:
    before = files_in(folder)
    (run, _) = plan(folder, base=based("trainer", max_epochs=2))
    with pytest.raises(UserError, match=r"seed_0 has results of another run: trainer.max_epochs was 1 and is now 2"):
        train([run])
    write_result(run, {"error": "late"})
    assert files_in(folder) == before


def test_a_fit_of_the_user_in_the_place_of_a_run_is_no_run_of_the_study(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = folder / "small/runs/student/seed_0"
    (run / "fingerprint").unlink()
    (run / "settings.json").unlink()
    (run / "result.json").unlink()
    line = refused(write(folder), capsys)
    assert "has results of other settings for 1 of 2 runs, such as student · seed 0: its settings are not known" in line


def test_a_run_that_failed_before_its_first_checkpoint_is_replaced_without_a_question(tmp_path: Path) -> None:
    wrong = {"student": {"model": {"init_args": {"network": {"init_args": {"in_features": 24}}}}}}
    with pytest.raises(SystemExit, match="all 1 runs failed"):
        main(write(tmp_path, rows=wrong, seeds=1))
    assert "cannot take" in pd.read_csv(tmp_path / "small/results.csv")["error"][0]
    main(write(tmp_path, seeds=1))
    assert "error" not in pd.read_csv(tmp_path / "small/results.csv")


def hold(folder: Path) -> None:
    with study_lock(folder):
        (folder / "held").touch()
        time.sleep(600)


def start_holder(folder: Path) -> BaseProcess:
    process = start_process(hold, folder)
    wait_until((folder / "held").exists)
    return process


def test_a_second_study_in_a_folder_is_refused_while_the_first_one_runs_and_names_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    holder = start_holder(folder / "small")
    try:
        before = files_in(folder)
        line = refused(write(folder), capsys)
        by = f"process {holder.pid} on {socket.gethostname()} since 20"
        assert line.startswith(f"error: a study already runs in {folder}/small ({by}")
        main([*write(folder), "--print_config", "student"])  # needs no lock
        assert files_in(folder) == before
    finally:
        holder.kill()
        holder.join()
    main(write(folder))  # the lock of a dead process holds nobody up


def test_what_a_run_has_parsed_must_be_what_was_planned(tmp_path: Path) -> None:
    (run, _) = plan(tmp_path)
    other = yaml.safe_dump(based("trainer", max_epochs=2))
    train([replace(run, configs=(other, *run.configs[1:]))])
    assert (run.result() or {})["error"].startswith("the configuration of student · seed 0 is not the one with which")
    assert not list(run.folder.rglob("*.ckpt"))


def test_a_job_of_a_study_after_which_another_one_trains_there_trains_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (*_, run) = plan(folder, seeds=3)
    with study_lock(folder / "small"):
        jobs = announce_jobs(folder / "small")
    refused([*write(folder), "--base.trainer.max_epochs", "2"], capsys)
    main(write(folder))
    check_latest(folder / "small", jobs)  # neither of them trained
    with study_lock(folder / "small"):
        announce_jobs(folder / "small")
    with pytest.raises(UserError, match=r"another study has begun in .*small since this job was submitted \(process"):
        train_group([run], jobs)
    assert not run.folder.exists()


def test_a_finished_run_that_is_replaced_is_kept_aside_even_if_an_older_one_still_is(folder: Path) -> None:
    run, other = (plan(folder, base=based("trainer", max_epochs=epochs))[0] for epochs in (1, 2))
    shutil.copytree(run.folder, run.folder / "replaced")
    (run.folder / "replaced/fingerprint").write_text("older")
    result = (run.folder / "result.json").read_bytes()
    run_folder.begin(other.folder, other.fingerprint, other.record)
    assert (run.folder / "replaced/fingerprint").read_text() == run.fingerprint
    assert (run.folder / "replaced/result.json").read_bytes() == result
    assert not run.best.exists()


def hold_and_end(run: Run) -> None:
    with run_lock(run.folder):
        (run.folder / "held").touch()
        time.sleep(0.5)
        with atomic_write(run.folder / "fingerprint") as draft:
            draft.write_text(run.fingerprint)
        write_result(run, {"scores": {"test/accuracy": 1.0}})


def test_a_run_that_another_process_trains_is_waited_for_and_not_repeated(tmp_path: Path) -> None:
    (run, _) = plan(tmp_path)
    other = start_process(hold_and_end, run)
    wait_until((run.folder / "held").exists)
    train([run])
    assert (run.result() or {})["scores"] == {"test/accuracy": 1.0}
    assert not run.best.exists()
    other.join()


def test_another_file_under_the_same_name_is_another_setting(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = tmp_path / "teacher.ckpt"
    shutil.copy(folder / "small/runs/student/seed_0/checkpoints/best.ckpt", teacher)
    arguments: dict[str, Any] = dict(SUPERVISED["init_args"])
    arguments |= {"teacher": LINEAR, "student": LINEAR, "teacher_checkpoint": str(teacher)}
    arguments |= {"teacher_inputs": ["x_a"], "student_inputs": ["x_b"]}
    del arguments["network"], arguments["inputs"]
    changes: dict[str, Any] = {"rows": {"KD": {}}, "seeds": 1, "name": "taught"}
    changes["base"] = SMALL["base"] | {"model": {"class_path": "distill.methods.KD", "init_args": arguments}}
    main(write(tmp_path, **changes))
    main(write(tmp_path, **changes))
    shutil.copy(folder / "small/runs/student/seed_1/checkpoints/best.ckpt", teacher)
    line = refused(write(tmp_path, **changes), capsys)
    assert "such as KD · seed 0: the file of model.init_args.teacher_checkpoint has changed: give another" in line


def test_hashes_of_files_are_kept_until_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"a" * 9)
    known: dict[str, Any] = {}
    config = {
        "model": {"a": str(path), "b": str(tmp_path), "c": ["x", str(path)], "d": "no such file", "e": "x" * 9999}
    }
    first = settings.named_files(config, tmp_path / "study", known)
    assert first.keys() == {"model.a", "model.c"}
    known[str(path)][1] = "kept"
    assert settings.named_files(config, tmp_path / "study", known)["model.a"] == "kept"
    path.write_bytes(b"b" * 9)
    assert settings.named_files(config, tmp_path / "study", known)["model.a"] not in ("kept", first["model.a"])
    assert settings.named_files(config, tmp_path, known) == {}


@pytest.mark.parametrize("content", ["[]", '{"modules": 3}', '{"settings": []}', "{"])
def test_a_damaged_record_is_one_of_unknown_settings(content: str, tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text(content)
    assert run_folder.read_record(tmp_path) == {}


def test_own_modules_count_with_what_they_import_and_installed_ones_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "pack_of_mine").mkdir()
    for name, text in {
        "__init__": "",
        "method": "from . import losses\nimport torch\nfrom pack_of_mine.deep import thing\nimport distill",
        "losses": "def f():\n    import helper_of_pack",
        "deep": "from .method import Method",
        "unused": "",
    }.items():
        (tmp_path / "pack_of_mine" / f"{name}.py").write_text(text)
    (tmp_path / "helper_of_pack.py").write_text("")
    settings._top_level.cache_clear()
    config = {
        "model": {"class_path": "pack_of_mine.method.Method", "x": ["torch.nn.ReLU", "distill.Supervised", "a.b"]}
    }
    found = settings.own_modules(config)
    own = {"pack_of_mine", *(f"pack_of_mine.{name}" for name in ("method", "losses", "deep")), "helper_of_pack"}
    assert found.keys() == own
    assert "pack_of_mine" not in sys.modules
    (tmp_path / "helper_of_pack.py").write_text("x = 1")
    after = settings.own_modules(config)
    assert {name for name in own if after[name] != found[name]} == {"helper_of_pack"}


def test_an_edited_module_of_the_user_is_said_and_kept_or_trained_again_only_on_demand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "module_of_mine.py").write_text(MODULE)
    (tmp_path / "helper_of_mine.py").write_text("scale = 1\n")
    settings._top_level.cache_clear()
    changes: dict[str, Any] = {
        "seeds": 1,
        "base": based("model", network={**LINEAR, "class_path": "module_of_mine.Mine"}),
    }
    command = [*write(tmp_path, **changes), "--trust", "module_of_mine"]
    main(command)
    main(command)
    result = tmp_path / "small/runs/student/seed_0/result.json"
    before = result.read_bytes()
    (tmp_path / "helper_of_mine.py").write_text("scale = -50\n")
    line = refused(command, capsys)
    assert "has results of other code for 1 of 1 runs, such as student · seed 0: the module helper_of_mine has" in line
    assert line.endswith("add --keep to take them as they are, or --force to train these runs again")
    main([*command, "--keep"])
    assert result.read_bytes() == before
    assert "1 of 1 runs are of other code: the module helper_of_mine has changed" in capsys.readouterr().out
    main([*command, "--force"])
    assert result.read_bytes() != before
    main(command)
    assert "other code" not in capsys.readouterr().out


def test_a_student_is_of_other_code_if_its_teacher_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "teacher_of_mine.py").write_text("x = 1\n")
    settings._top_level.cache_clear()
    teacher = {"data": {"init_args": {"batch_size": 5}}, "model": {"init_args": {"inputs": ["teacher_of_mine.x"]}}}
    used = {"data": {"init_args": {"seed": 1}}, "trainer": {"default_root_dir": "{first}/x"}}
    changes: dict[str, Any] = {"rows": {"first": teacher, "second": used, "third": {}}, "seeds": 1}
    for run in plan(tmp_path, **changes):
        run_folder.begin(run.folder, run.fingerprint, run.record)
        write_result(run, {"scores": {}})
    assert not any(run.other_code() for run in plan(tmp_path, **changes))
    (tmp_path / "teacher_of_mine.py").write_text("x = 2\n")
    first, second, third = plan(tmp_path, **changes)
    assert first.other_code() == ["the module teacher_of_mine has changed"]
    assert second.other_code() == ["a run that it needs, such as its teacher, is of other code"]
    assert not third.other_code()


def test_results_of_another_version_are_said_and_are_not_mixed_with_new_ones(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in folder.rglob("settings.json"):
        record = json.loads(path.read_text())
        path.write_text(json.dumps(record | {"library": "0.0.9 (sources 01234567)"}))
    before = files_in(folder)
    main(write(folder))
    out = capsys.readouterr().out
    assert "2 of 2 runs are of other code: this library was of version 0.0.9 (sources 01234567) and is now of" in out
    line = refused([*write(folder), "--seeds", "3"], capsys)
    assert "has results of other code for 2 of 3 runs" in line
    assert files_in(folder) == before
    main([*write(folder), "--seeds", "3", "--keep"])
    results = pd.read_csv(folder / "small/results.csv")
    assert list(results["seed"]) == [0, 1, 2]
    assert {path: state for path, state in files_in(folder).items() if path in before} == before


@pytest.mark.parametrize(
    "content",
    [
        *("", '{"fingerprint": "12', "[1]", '{"scores": {}}', b"\xff\xfe", '{"fingerprint": "1", "ended": 5}'),
        *('{"fingerprint": "1", "scores": "abc"}', '{"fingerprint": "1", "scores": {"test/accuracy": "x"}}'),
    ],
)
def test_a_damaged_result_is_one_sentence(
    content: str | bytes, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "small/runs/student/seed_1/result.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    line = refused(write(folder), capsys)
    assert line == f"error: {path} is damaged: remove it, and the study trains this run again"


def test_where_the_output_is_no_terminal_every_run_that_ends_is_a_line_with_time_and_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(write(tmp_path, seeds=1, rows={"a row of [brackets]": {}}))
    out = capsys.readouterr().out
    assert "small: 0 of 1 are done" in out
    (line,) = (line for line in out.splitlines() if "1 of 1 (100%)" in line)
    assert line.startswith("20")
    assert "a row of [brackets] · seed 0: accuracy [%] " in line
    assert line.rstrip("]").endswith("since the start")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"row": {}}, "there is no key 'row', did you mean rows? The keys are base, rows, teacher, columns, seeds, "),
        ({"rows": {False: {}}}, "YAML reads a name in rows as False, which is not text: write it in quotes"),
        ({"rows": {None: {}}}, "YAML reads a name in rows as None, which is not text"),
        ({"columns": {0.5: {}}}, "YAML reads a name in columns as 0.5, which is not text"),
        ({"columns": {"a": {"rows": {1: {}}}}}, "YAML reads a name in columns.a.rows as 1, which is not text"),
        ({"columns": {"a": {"rows": ["student"]}}}, "rows of column 'a' must hold keys and values, got ['student']"),
        ({"columns": {"a": {"teacher": None}}}, "teacher of column 'a' must hold keys and values, got None"),
        ({"columns": {"a": {"student": "x_a"}}}, "student of column 'a' must hold keys and values, got 'x_a'"),
        (
            {"columns": {"a": {"student": {"input": ["x_a"]}}}},
            "student of column 'a' has no key 'input'; there are network, inputs, layers, layout, checkpoint",
        ),
        ({"rows": {"x" * 300: {}}}, "the row 'xxxxxxxxxxxxxxxxxxxx'... has a name of 300 letters, but its folder"),
        ({"columns": {"é" * 101: {}}}, "has a name of 101 letters, but its folder can have 200"),
        ({"columns": {"results.csv": {}}}, "a column cannot be named 'results.csv', because the study writes a file"),
        ({"columns": {"depth_a.png": {}}}, "a column cannot be named 'depth_a.png'"),
        ({"logs_dir": __file__}, f"the study cannot write to {__file__}/small (Not a directory): choose another"),
        ({"name": "x" * 300}, "(File name too long): choose another logs_dir"),
        ({"base": based("trainer", devices=2)}, "trainer.devices is 2, but each run of a study trains on one device"),
        ({"base": based("trainer", devices="0,1")}, "trainer.devices is '0,1', but each run of a study trains"),
        ({"base": based("trainer", devices=-1)}, "trainer.devices is -1, but each run of a study trains on one"),
        ({"base": based("trainer", num_nodes=2)}, "trainer.num_nodes is 2, but each run of a study trains on one"),
    ],
)
def test_what_cannot_be_run_is_one_sentence(
    changes: dict[str, Any], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sentence in refused(write(tmp_path, **changes), capsys)


def test_a_study_of_which_all_runs_fail_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = {"seeds": 1, "rows": {"student": {"model": {"init_args": {"inputs": ["no_such"]}}}}}
    with pytest.raises(SystemExit) as exit_:
        main(write(tmp_path, **changes))
    assert "error: all 1 runs failed, the first one: the batch has no modality 'no_such'" in str(exit_.value.code)
    assert (tmp_path / "small/results.csv").is_file()


def test_force_and_keep_exclude_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "choose one" in refused([*write(tmp_path), "--force", "--keep"], capsys)


def test_a_run_takes_one_device_and_the_one_that_it_asks_for(tmp_path: Path) -> None:
    assert ("trainer.devices", "1") in plan(tmp_path)[0].settings
    asked = plan(tmp_path, base=based("trainer", devices=[0], accelerator="auto"))[0]
    assert all(key != "trainer.devices" for key, _ in asked.settings)


def test_workers_take_the_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    def device(slot: int, accelerator: str) -> Any:
        return device_of(slot, SimpleNamespace(accelerator=accelerator))

    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [device(slot, "auto") for slot in range(3)] == [[0], [1], [0]]
    assert device(1, "cpu") == 1
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert device(1, "gpu") == 1


@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL", "Ctrl-C", "Ctrl-C twice"])
def test_however_a_study_ends_its_processes_and_those_that_load_data_end_too(how: str, tmp_path: Path) -> None:
    base = based("trainer", max_epochs=1000)
    base["data"]["init_args"]["num_workers"] = 2
    process = subprocess.Popen([sys.executable, "train.py", *write(tmp_path, base=base)], start_new_session=True)
    try:
        # the study, its resource tracker, fork server, one worker, and two processes that load data
        wait_until(lambda: processes_of_session(process.pid) >= 6, 120)
        for _ in range(2 if how == "Ctrl-C twice" else 1):
            process.send_signal(getattr(signal, how, signal.SIGINT))
            time.sleep(0.02)
        process.wait(30)
        wait_until(lambda: processes_of_session(process.pid) == 0, 20)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    assert (process.returncode == 130) == how.startswith("Ctrl-C")
