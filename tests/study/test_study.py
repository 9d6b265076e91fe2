"""A grid of trainings: each run once, every failure named, and nothing lost when it is stopped."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from PIL import Image

from distill.cli import main
from distill.command.command_line import Configuration, fit_parser
from distill.study.run import Run, train, write_result
from distill.study.run_folder import begin
from distill.study.study import Study, _train_on_cluster, chosen_runs, plan_runs, unfinished
from distill.study.table import Score
from tests.waiting import processes_of_session, wait_until

LINEAR = {"class_path": "distill.models.MLP", "init_args": {"in_features": 25, "num_classes": 2}}
STUDENT = {"network": LINEAR, "inputs": ["x_b"]}
STUDY: dict[str, Any] = {
    "name": "tiny",
    "seeds": 2,
    "reference": "student",
    "scores": [{"metric": "test/accuracy", "scale": 100, "digits": 1}, {"metric": "test/cmd"}],
    "base": {
        "model": {
            "class_path": "distill.methods.KD",
            "init_args": {
                "teacher": LINEAR,
                "student": LINEAR,
                "task": {"class_path": "distill.Classification", "init_args": {"num_classes": 2}},
                "teacher_inputs": ["x_a"],
                "student_inputs": ["x_b"],
                "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
            },
        },
        "data": {"class_path": "datamodules.GaussianPair"},
        "trainer": {
            "max_epochs": 4,
            "accelerator": "cpu",
            "logger": False,
            "callbacks": [{"class_path": "callbacks.DivergenceTracker"}],
        },
    },
    "teacher": {
        "model": {"class_path": "distill.Supervised", "init_args": {"network": LINEAR, "inputs": ["x_a"]}},
        "trainer": {"callbacks": None},
    },
    "rows": {
        "student": {"model": {"init_args": {"weight": 0, "hard_weight": 1}}},
        "KD": {"model": {"init_args": {"temperature": 2}}},
        "broken": {"model": {"init_args": {"student": {"init_args": {"in_features": 24}}}}},
    },
    "columns": {
        "level 1": {"data": {"init_args": {"level": 1}}},
        "level 6": {"data": {"init_args": {"level": 6}}},
    },
}


def write(folder: Path, **changes: Any) -> list[str]:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(copy.deepcopy(STUDY) | {"logs_dir": str(folder)} | changes, sort_keys=False))
    return ["study", "--config", str(path)]


def results_in(folder: Path) -> dict[str, tuple[int, bytes]]:
    """When the result of each run was written, and what it holds."""
    paths = {path.relative_to(folder / "tiny").parent: path for path in (folder / "tiny").rglob("result.json")}
    return {str(run): (path.stat().st_mtime_ns, path.read_bytes()) for run, path in paths.items()}


def configuration_of(folder: Path, run: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((folder / "tiny" / run / "fit.yaml").read_text())
    return content


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    main(write(folder))
    return folder


def test_every_run_is_one_line(study: Path) -> None:
    runs = pd.read_csv(study / "tiny/results.csv")
    expected = [(c, r, s) for c in STUDY["columns"] for r in ("teacher", *STUDY["rows"]) for s in (0, 1)]
    assert list(runs[["column", "row", "seed"]].itertuples(index=False, name=None)) == expected
    assert runs[runs["row"] != "broken"]["test/accuracy"].notna().all()
    assert runs[runs["row"] == "KD"]["test/cmd"].notna().all()
    assert runs[runs["row"] == "teacher"]["test/cmd"].isna().all()


def test_a_failure_is_one_sentence_in_the_table_and_a_traceback_in_the_runs_folder(study: Path) -> None:
    runs = pd.read_csv(study / "tiny/results.csv")
    (sentence,) = set(runs[runs["row"] == "broken"]["error"])
    assert sentence.startswith("the student MLP cannot take x_b (2, 25)")
    table = (study / "tiny/table.md").read_text()
    assert "| level 1 | broken (2 failed) | - | - | - | - |" in table
    assert f"level 1 · broken: 2 failed: {sentence}" in table
    assert "Traceback" in (study / "tiny/level_1/broken/seed_0/error.txt").read_text()
    assert not (study / "tiny/level_1/KD/seed_0/error.txt").exists()


def test_the_summary_is_written_as_table_and_figure(study: Path) -> None:
    runs = pd.read_csv(study / "tiny/results.csv")
    table = pd.read_csv(study / "tiny/table.csv").set_index(["column", "row"])
    scores = runs[(runs["column"] == "level 6") & (runs["row"] == "KD")]["test/accuracy"]
    assert table.loc[("level 6", "KD"), "test/accuracy"] == pytest.approx(scores.mean())
    with Image.open(study / "tiny/figure.png") as figure:
        figure.load()
        assert figure.format == "PNG"


def test_each_column_and_seed_has_one_teacher_whose_checkpoint_teaches(study: Path) -> None:
    for column in ("level_1", "level_6"):
        for seed in ("seed_0", "seed_1"):
            arguments = configuration_of(study, f"{column}/KD/{seed}")["model"]["init_args"]
            teacher = study / "tiny" / column / "teacher" / seed / "checkpoints/best.ckpt"
            assert Path(arguments["teacher_checkpoint"]) == teacher
            assert teacher.is_file()
            assert arguments["temperature"] == 2


def test_every_seed_is_new_data_and_teacher_and_students_see_the_same(study: Path) -> None:
    for row in ("teacher", "student", "KD"):
        for seed in (0, 1):
            configuration = configuration_of(study, f"level_1/{row}/seed_{seed}")
            assert configuration["seed_everything"] is not False
            assert configuration["seed_everything"] == configuration["data"]["init_args"]["seed"] == seed


def test_a_second_call_trains_nothing_but_what_failed(study: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(study, folder)
    rows = {name: part for name, part in STUDY["rows"].items() if name != "broken"}
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("seed_*/**/*")}
    main(write(folder, rows=rows))
    tables = {name: (folder / "tiny" / name).read_bytes() for name in ("results.csv", "table.md", "figure.png")}
    main(write(folder, rows=rows))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("seed_*/**/*")} == before
    assert {name: (folder / "tiny" / name).read_bytes() for name in tables} == tables


def test_depth_that_the_runs_of_a_seed_kept_is_drawn_side_by_side(study: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(study, folder)
    rows = {name: part for name, part in STUDY["rows"].items() if name != "broken"}
    depth = np.full((2, 4, 12), 5, np.float32)
    for row, factor in {"student": 1.5, "KD": 1.1}.items():
        figures = folder / "tiny" / "level_1" / row / "seed_0" / "figures"
        figures.mkdir(exist_ok=True)
        image = np.zeros((2, 4, 12, 3), np.uint8)
        np.savez(figures / "depth_test.npz", image=image, target=depth, teacher=depth, student=factor * depth)
    main(write(folder, rows=rows))
    with Image.open(folder / "tiny" / "depth_level_1.png") as picture:
        assert picture.width > 100
    assert not (folder / "tiny" / "depth_level_6.png").exists()


def test_a_changed_row_is_trained_anew_and_no_other(study: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(study, folder)
    rows = copy.deepcopy(STUDY["rows"])
    rows["KD"]["model"]["init_args"]["temperature"] = 5
    del rows["broken"]
    before = results_in(folder)
    main([*write(folder, rows=rows), "--force"])
    after = results_in(folder)
    assert {run for run in after if after[run] != before[run]} == {
        f"{column}/KD/{seed}" for column in ("level_1", "level_6") for seed in ("seed_0", "seed_1")
    }
    assert configuration_of(folder, "level_1/KD/seed_0")["model"]["init_args"]["temperature"] == 5


def test_a_part_of_a_study_is_trained_with_the_reference_and_its_teachers(tmp_path: Path) -> None:
    arguments = [*write(tmp_path), "--only", "KD", "--only-column", "level 6", "--seeds", "1"]
    main(arguments)
    assert set(results_in(tmp_path)) == {f"level_6/{row}/seed_0" for row in ("teacher", "student", "KD")}
    assert list(pd.read_csv(tmp_path / "tiny/results.csv")["row"]) == ["teacher", "student", "KD"]


def test_the_table_of_a_part_shows_all_runs_that_have_a_result(study: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(study, folder)
    before = results_in(folder)
    main([*write(folder), "--only", "KD", "student"])
    assert results_in(folder) == before
    assert (folder / "tiny/results.csv").read_bytes() == (study / "tiny/results.csv").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--only", "DKD"], "there is no row 'DKD'; there are 'teacher', 'student', 'KD', 'broken'"),
        (["--only", "KD", "--only-column", "level 2"], "there is no column 'level 2'; there are 'level 1', 'level 6'"),
        (["--print_config", "DKD", "level 1"], "there is no row 'DKD'; there are 'teacher', 'student', 'KD', 'broken'"),
        (["--print_config", "KD", "level 2"], "there is no column 'level 2'; there are 'level 1', 'level 6'"),
        (["--print_config", "KD"], "--print_config takes a row and a column; the columns are 'level 1', 'level 6'"),
        (["--print_config", "KD", "level 1", "x"], "--print_config takes a row and a column"),
    ],
)
def test_an_unknown_row_or_column_of_a_part_is_one_sentence(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([*write(tmp_path), *arguments])
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {sentence}")
    assert not list(tmp_path.rglob("seed_*"))


def test_a_printed_configuration_is_that_of_the_run_and_fits(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = {path: path.stat().st_mtime_ns for path in study.rglob("configs/**/*.yaml")}
    main([*write(study), "--print_config", "KD", "level 6"])
    # a running study reads its files
    assert {path: path.stat().st_mtime_ns for path in study.rglob("configs/**/*.yaml")} == written
    path = tmp_path / "kd.yaml"
    path.write_text(capsys.readouterr().out)
    printed = fit_parser().parse_args(["--config", str(path)])
    (run,) = (run for name, run in plan(study).items() if name == "level 6 · KD · seed 0")
    trained = fit_parser().parse_args(run.arguments())
    for part in ("model", "data", "seed_everything"):
        assert getattr(printed, part) == getattr(trained, part)
    placed = dict.fromkeys(("default_root_dir", "enable_progress_bar", "enable_model_summary"))
    assert printed.trainer.as_dict() == trained.trainer.as_dict() | placed
    assert (
        Path(printed.model.init_args.teacher_checkpoint) == study / "tiny/level_6/teacher/seed_0/checkpoints/best.ckpt"
    )

    main(["fit", "--config", str(path), "--logs_dir", str(tmp_path / "logs"), "--trainer.enable_progress_bar", "false"])
    best = torch.load(tmp_path / "logs/tiny/level_6/KD/version_0/checkpoints/best.ckpt", weights_only=True)
    of_study = torch.load(run.best, weights_only=True)
    assert best["state_dict"].keys() == of_study["state_dict"].keys()
    assert all(torch.equal(value, best["state_dict"][name]) for name, value in of_study["state_dict"].items())


def test_jobs_of_a_cluster_give_the_same_results_as_processes_here(study: Path, tmp_path: Path) -> None:
    rows = {"student": STUDY["rows"]["student"], "broken": STUDY["rows"]["broken"]}
    columns = {"level 1": STUDY["columns"]["level 1"]}
    main(write(tmp_path, cluster="local", seeds=1, rows=rows, columns=columns))
    for row in ("teacher", "student", "broken"):
        path = f"tiny/level_1/{row}/seed_0/result.json"
        here, there = (json.loads((folder / path).read_text()) for folder in (study, tmp_path))
        assert here.get("scores") == there.get("scores")
        assert here.get("error") == there.get("error")
    assert len(pd.read_csv(tmp_path / "tiny/results.csv")) == 3


def test_a_killed_study_goes_on_and_leaves_no_process_behind(tmp_path: Path) -> None:
    base = copy.deepcopy(STUDY["base"])
    base["trainer"] |= {"max_epochs": 100, "check_val_every_n_epoch": 50}
    rows, columns = ({name: STUDY[part][name]} for part, name in (("rows", "student"), ("columns", "level 6")))
    arguments = write(tmp_path, base=base, rows=rows, columns=columns, seeds=[3, 5])
    process = subprocess.Popen(
        [sys.executable, "train.py", *arguments], stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        wait_until(lambda: bool(results_in(tmp_path)) or process.poll() is not None, 120)
    finally:
        process.kill()
        process.wait()
    time.sleep(0.5)  # a process that outlives the study would go on for seconds
    finished = results_in(tmp_path)
    assert 1 <= len(finished) < 4
    wait_until(lambda: processes_of_session(process.pid) == 0, 20)
    assert results_in(tmp_path) == finished

    main(arguments)
    after = results_in(tmp_path)
    assert set(after) == {f"level_6/{row}/{seed}" for row in ("teacher", "student") for seed in ("seed_3", "seed_5")}
    assert {run: after[run] for run in finished} == finished
    assert all("scores" in json.loads(content) for _, content in after.values())


@pytest.mark.filterwarnings("ignore:the teacher .* has random weights")
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_run_killed_between_fit_and_test_has_the_scores_of_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("distill.study.run._be_quiet", lambda: None)  # for good, in the process of the tests
    results = []
    for name in ("whole", "killed"):
        changes: dict[str, Any] = {"name": name, "teacher": None, "rows": {"student": STUDY["rows"]["student"]}}
        (run,) = plan(tmp_path, **changes, columns={"": {}}, seeds=1).values()
        if name == "killed":
            with monkeypatch.context() as patch:
                patch.setattr(Trainer, "test", killed)
                with pytest.raises(KeyboardInterrupt):
                    train([run])
            assert run.result() is None
        train([run])
        results.append((run.result() or {})["scores"])
    assert {"train/loss", "val/accuracy", "test/accuracy"} <= set(results[0])
    assert results[1] == results[0]


def plan(folder: Path, **changes: Any) -> dict[str, Run]:
    """The runs of a study by their names."""
    fields: dict[str, Any] = copy.deepcopy(STUDY) | {"logs_dir": str(folder), "scores": [Score("x")]} | changes
    runs = plan_runs(Study(**fields))
    named = {str(run): run for run in runs}
    assert len(named) == len(runs)
    return named


def test_a_change_concerns_the_runs_that_it_concerns(tmp_path: Path) -> None:
    rows = {"KD": {}, "alone": {"model": {"class_path": "distill.Supervised", "init_args": STUDENT}}}
    study: dict[str, Any] = {"rows": rows, "reference": None, "seeds": [0, 1]}
    before = plan(tmp_path, **study)
    assert len(before) == 2 * 3 * 2

    def changed(**changes: Any) -> set[str]:
        after = plan(tmp_path, **study | changes)
        return {name for name in before if name in after and after[name].fingerprint != before[name].fingerprint}

    assert changed(seeds=[1, 7], workers=1, name="other", reference="KD") == set()
    assert changed(base=STUDY["base"] | {"trainer": {"max_epochs": 9}}) == set(before)
    columns = STUDY["columns"] | {"level 6": {"data": {"init_args": {"level": 5}}}}
    assert changed(columns=columns) == {name for name in before if name.startswith("level 6")}
    assert changed(rows=rows | {"KD": {"trainer": {"max_epochs": 9}}}) == {name for name in before if "KD" in name}
    teacher = STUDY["teacher"] | {"trainer": {"max_epochs": 9}}
    assert changed(teacher=teacher) == {name for name in before if "alone" not in name}


def test_a_row_with_a_teacher_of_its_own_keeps_it(tmp_path: Path) -> None:
    own = {"model": {"init_args": {"teacher_checkpoint": "mine.ckpt"}}}
    runs = plan(tmp_path, rows={"student": {}, "own": own}, columns={"level 1": {}})
    assert runs["level 1 · own · seed 0"].teacher is None
    assert runs["level 1 · student · seed 1"].teacher is runs["level 1 · teacher · seed 1"]
    arguments = Configuration(runs["level 1 · own · seed 0"].arguments(), run=False).config.model.init_args
    assert str(arguments.teacher_checkpoint) == "mine.ckpt"


def masked(reference: str) -> dict[str, Any]:
    mask = {"class_path": "distill.weighting.NontargetSampleMask", "init_args": {"fraction": 0.5}}
    mask["init_args"]["reference_checkpoint"] = reference  # type: ignore[index]
    return {"model": {"class_path": "distill.methods.NTDH", "init_args": {"sample_mask": mask}}}


def test_a_row_uses_files_of_a_run_above_it_of_its_column_and_seed(tmp_path: Path) -> None:
    rows = {"student": {"model": {"init_args": {"weight": 0, "hard_weight": 1}}}}
    rows["masked"] = masked("{student}/checkpoints/best.ckpt")
    base = STUDY["base"] | {"trainer": STUDY["base"]["trainer"] | {"callbacks": None}}
    changes = {"rows": rows, "seeds": [4], "base": base, "scores": [{"metric": "test/accuracy"}]}
    runs = plan(tmp_path, **changes | {"scores": [Score("x")]})
    student, run = runs["level 6 · student · seed 4"], runs["level 6 · masked · seed 4"]
    assert run.after == [runs["level 6 · teacher · seed 4"], student]
    arguments = Configuration(run.arguments(), run=False).config.model.init_args
    assert Path(arguments.sample_mask.init_args.reference_checkpoint) == student.best
    other = plan(tmp_path, **changes | {"scores": [Score("x")], "rows": rows | {"student": {}}})
    assert other["level 6 · masked · seed 4"].fingerprint != run.fingerprint

    main(write(tmp_path, **changes))
    assert "error" not in pd.read_csv(tmp_path / "tiny/results.csv")


def test_runs_whose_checkpoint_is_gone_are_trained_again_where_one_to_run_builds_on_them(tmp_path: Path) -> None:
    second = {"model": {"init_args": {"teacher_checkpoint": "{student}/checkpoints/best.ckpt"}}}
    rows = {"student": {}, "second": second, "other": {}}
    runs = plan(tmp_path, rows=rows, reference=None, columns={"": {}}, seeds=1)
    for run in runs.values():
        write_result(run, {"scores": {}})
    assert unfinished(list(runs.values())) == []
    (runs["second · seed 0"].folder / "result.json").unlink()
    assert [run.row for run in unfinished(list(runs.values()))] == ["teacher", "student", "second"]
    best = runs["student · seed 0"].best
    best.parent.mkdir(parents=True)
    best.touch()
    assert [run.row for run in unfinished(list(runs.values()))] == ["second"]


def test_a_row_cannot_use_what_is_no_row_above_it(tmp_path: Path) -> None:
    rows = {"masked": masked("{student}/checkpoints/best.ckpt"), "student": {}}
    with pytest.raises(
        ValueError, match="row 'masked' uses a file of 'student', which is not a row above it; those are 't"
    ):
        plan(tmp_path, rows=rows, reference=None)


def test_a_column_of_networks_says_what_its_teacher_is(tmp_path: Path) -> None:
    wide = {"class_path": "distill.models.MLP", "init_args": {"in_features": 25, "num_classes": 2, "hidden": [9]}}
    columns = {
        "linear": {},
        "wide": {
            "teacher": {"model": {"init_args": {"network": wide}}},
            "model": {"init_args": {"teacher": wide}},
        },
    }
    runs = plan(tmp_path, columns=columns)

    def configuration(name: str) -> Any:
        files = [argument for path in runs[name].configs for argument in ("--config", str(path))]
        return Configuration(files, run=False).config.model.init_args

    assert configuration("wide · teacher · seed 0").network.init_args.hidden == [9]
    assert configuration("wide · KD · seed 0").teacher.init_args.hidden == [9]
    assert configuration("linear · teacher · seed 0").network.init_args.hidden != [9]


def test_a_column_of_networks_sets_a_row_apart_that_has_others(tmp_path: Path) -> None:
    wide = {"class_path": "distill.models.MLP", "init_args": {"in_features": 25, "num_classes": 2, "hidden": [9]}}
    rows = {"student": {"model": {"class_path": "distill.Supervised", "init_args": STUDENT}}, "KD": {}}
    level = {"data": {"init_args": {"level": 3}}}
    apart = {"student": {"model": {"init_args": {"network": wide}}}}
    columns = {"wide": {"rows": apart, "teacher": {}, "model": {"init_args": {"student": wide}}, **level}}
    runs = plan(tmp_path, rows=rows, columns=columns)
    student, kd = (
        fit_parser().parse_args(runs[f"wide · {row} · seed 0"].settings_arguments()) for row in ("student", "KD")
    )
    assert student.model.init_args.network.init_args.hidden == kd.model.init_args.student.init_args.hidden == [9]
    assert student.data.init_args.level == kd.data.init_args.level == 3


WHICH_STUDENT: dict[str, Any] = {
    "sees b": {"student": {"inputs": ["x_b"]}},
    "sees a": {
        "student": {
            "inputs": ["x_a"],
            "network": {"class_path": "torch.nn.LazyLinear", "init_args": {"out_features": 2}},
        }
    },
    "of other data": {"student": {"inputs": ["x_a"]}, "data": {"init_args": {"level": 4}}},
}
ALONE_OR_NOT = {"student": {"model": {"class_path": "distill.Supervised", "init_args": STUDENT}}, "KD": {}}


def test_a_column_says_which_student_and_a_teacher_of_the_same_settings_is_planned_once(tmp_path: Path) -> None:
    runs = plan(tmp_path, rows=ALONE_OR_NOT, columns=WHICH_STUDENT, reference="student")
    assert [name for name in runs if "seed 0" in name] == [
        f"{column} · {row} · seed 0"
        for column, rows in (
            ("sees b", "teacher student KD"),
            ("sees a", "student KD"),
            ("of other data", "teacher student KD"),
        )
        for row in rows.split()
    ]
    for column, modality in (("sees b", "x_b"), ("sees a", "x_a"), ("of other data", "x_a")):
        alone, kd = (
            Configuration(runs[f"{column} · {row} · seed 1"].arguments(), run=False).config.model
            for row in ("student", "KD")
        )
        assert alone.init_args.inputs == kd.init_args.student_inputs == [modality]
        assert kd.init_args.teacher_inputs == ["x_a"]
        kind = "torch.nn.LazyLinear" if column == "sees a" else "distill.models.MLP"
        assert alone.init_args.network.class_path == kd.init_args.student.class_path == kind
        taught = runs[f"{column} · KD · seed 1"].teacher
        assert taught is runs[f"{'of other data' if 'data' in column else 'sees b'} · teacher · seed 1"]
    assert runs["sees b · teacher · seed 0"].columns == ["sees b", "sees a"]


def test_the_example_of_the_page_on_columns_is_a_study_with_one_teacher(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/studies.md").read_text()
    example = yaml.safe_load(page.split("```yaml\n")[2].split("```")[0])
    runs = plan_runs(Study(**example, logs_dir=str(tmp_path), scores=[Score("test/accuracy")]))
    seen = {str(run): fit_parser().parse_args(run.settings_arguments()).model.init_args for run in runs if run.teacher}
    assert {name: its.student_inputs for name, its in seen.items()} == {
        f"sees {modality} · KD · seed 0": [modality] for modality in ("x_a", "x_b")
    }
    assert len({run.teacher for run in runs} - {None}) == 1
    assert [run.columns for run in runs if run.row == "teacher"] == [["sees x_a", "sees x_b"]]


def test_a_printed_configuration_names_the_teacher_that_columns_share(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*write(tmp_path, rows=ALONE_OR_NOT, columns=WHICH_STUDENT), "--print_config", "KD", "sees a"])
    arguments = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
    assert arguments["teacher_checkpoint"] == str(tmp_path / "tiny/sees_b/teacher/seed_0/checkpoints/best.ckpt")
    assert arguments["student_inputs"] == ["x_a"]


def test_a_teacher_that_columns_share_stands_in_the_table_of_each(tmp_path: Path) -> None:
    columns = {name: WHICH_STUDENT[name] for name in ("sees b", "sees a")}
    changes = {"rows": ALONE_OR_NOT, "columns": columns, "seeds": 1}
    runs = plan(tmp_path, **changes)
    for number, run in enumerate(runs.values()):
        begin(run.folder, run.fingerprint, run.record)
        write_result(run, {"scores": {"test/accuracy": number / 10}})
    main([*write(tmp_path, **changes), "--keep"])  # all runs have results, so none is trained
    lines = pd.read_csv(tmp_path / "tiny/results.csv")
    assert list(lines[["column", "row", "test/accuracy"]].itertuples(index=False, name=None)) == [
        *(("sees b", "teacher", 0.0), ("sees b", "student", 0.1), ("sees b", "KD", 0.2)),
        *(("sees a", "teacher", 0.0), ("sees a", "student", 0.3), ("sees a", "KD", 0.4)),
    ]
    chosen = chosen_runs(
        Study(**STUDY | changes | {"scores": [Score("test/accuracy")]}), [*runs.values()], None, ["sees a"]
    )
    assert [str(run) for run in chosen] == [
        name for name in runs if name not in ("sees b · student · seed 0", "sees b · KD · seed 0")
    ]


class Job:
    """A job that trains nothing."""

    def exception(self) -> None:
        return None


def test_each_job_of_columns_that_share_a_teacher_can_train_it_and_it_is_reported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[list[Run]] = []

    class Executor:
        def __init__(self, **_: Any) -> None:
            pass

        update_parameters = __init__

        def map_array(self, function: Any, runs: list[list[Run]], names: list[str]) -> list[Job]:
            groups.extend(runs)
            return [Job() for _ in runs]

    monkeypatch.setattr("submitit.AutoExecutor", Executor)
    monkeypatch.setattr("submitit.helpers.as_completed", lambda jobs, poll_frequency: jobs)
    columns = {name: WHICH_STUDENT[name] for name in ("sees b", "sees a")}
    runs = [*plan(tmp_path, rows=ALONE_OR_NOT, columns=columns, seeds=1).values()]
    study = Study(
        **STUDY | {"rows": ALONE_OR_NOT, "columns": columns, "cluster": "local", "scores": [Score("test/accuracy")]}
    )
    ended = [run for run, _ in _train_on_cluster(study, runs, "jobs")]
    assert sorted(map(str, ended)) == sorted(map(str, runs))
    assert groups == [runs[:3], [runs[0], *runs[3:]]]


def test_a_study_may_have_neither_teacher_nor_columns(tmp_path: Path) -> None:
    rows = {"student": {"model": {"class_path": "distill.Supervised", "init_args": STUDENT}}}
    data = {"data": {"class_path": "datamodules.GaussianPair", "init_args": {"level": 2}}}
    fields: dict[str, Any] = {"base": STUDY["base"] | data, "rows": rows, "logs_dir": str(tmp_path), "seeds": [4]}
    (run,) = plan_runs(Study(**fields))
    assert str(run) == "student · seed 4"
    assert run.teacher is None
    assert run.folder.relative_to(tmp_path) == Path("study/runs/student/seed_4")


@pytest.mark.parametrize("part", ["base", "row", "column"])
def test_a_seed_of_the_data_that_is_named_is_kept(part: str, tmp_path: Path) -> None:
    seed = {"data": {"class_path": "datamodules.GaussianPair", "init_args": {"seed": 77}}}
    changes: dict[str, Any] = {
        "base": {"base": STUDY["base"] | seed},
        "row": {"rows": {"student": seed}, "teacher": STUDY["teacher"] | seed},
        "column": {"columns": {"level 1": seed}},
    }[part]
    for run in plan(tmp_path, **{"rows": {"student": {}}, "columns": {"": {}}, "seeds": [5]} | changes).values():
        assert Configuration(run.arguments(), run=False).config.data.init_args.seed == 77


def test_a_data_module_without_a_seed_is_given_none(tmp_path: Path) -> None:
    base = STUDY["base"] | {"data": {"class_path": "tests.toys.ToyData"}}
    runs = plan(tmp_path, base=base, columns={"": {}}, rows={"student": {}}, seeds=1)
    for run in runs.values():
        assert "seed" not in Configuration(run.arguments(), run=False).config.data.init_args


@pytest.mark.parametrize("where", ["rows", "teacher", "columns"])
def test_a_typo_is_named_with_row_and_column_before_anything_is_trained(
    where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typo = {"trainer": {"max_epoch": 2}}
    changes = {"teacher": STUDY["teacher"] | typo} if where == "teacher" else {where: STUDY[where] | {"odd one": typo}}
    with pytest.raises(SystemExit) as exit_:
        main(write(tmp_path, **changes))
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    row = {"rows": "odd one", "teacher": "teacher", "columns": "teacher"}[where]
    column = "odd one" if where == "columns" else "level 1"
    assert line.startswith(f"error: row {row!r}, column {column!r}: ")
    assert "max_epoch" in line
    assert not results_in(tmp_path)
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"reference": "nobody"}, "reference 'nobody' is not a row; the rows are 'student', 'KD', 'broken'"),
        ({"rows": {"teacher": {}}, "reference": None}, "a row cannot be named 'teacher'"),
        ({"seedz": 3}, "seedz"),
        ({"workers": 0}, "workers must be 1 or more, got 0"),
        (
            {"rows": {"student": {}, "a b": {}, "a_b": {}}},
            "'a b', 'a_b' differ only in special characters",
        ),
        ({"columns": {"a/b": {}, "a:b": {}}}, "two of 'a/b', 'a:b' differ only in special characters"),
        ({"rows": {}, "reference": None}, "a study needs rows"),
        ({"seeds": 0}, "a study needs seeds, got 0"),
        ({"seeds": -1}, "seeds must be their number, or a list of seeds of 0 or more, got -1"),
        ({"seeds": [-1]}, "seeds must be their number, or a list of seeds of 0 or more, got [-1]"),
        ({"seeds": [1, 2, 1]}, "every seed must be named once, got [1, 2, 1]"),
        ({"scores": []}, "a study needs scores"),
        ({"panels": [{"score": "test/tcjsd"}]}, "a panel's score is 'test/tcjsd', but there are 'test/accuracy', "),
        ({"panels": [{"rows": ["DKD"]}]}, "a panel's row is 'DKD', but there are 'teacher', 'student', 'KD', 'broken'"),
        ({"panels": [{"rows": ["KD x"], "column": "level 1"}]}, "a panel's row is 'KD x', but there are 'teacher'"),
        ({"panels": [{"column": "level 2"}]}, "a panel's column is 'level 2', but there are 'level 1', 'level 6'"),
        (
            {"panels": [{"column": "level 1"}]},
            "a panel of column 'level 1' draws over numbers, but no row that it draws",
        ),
        ({"alone": ["DKD"]}, "a row that trains alone is 'DKD', but there are 'teacher', 'student', 'KD', 'broken'"),
        ({"panels": [{"difference": True}], "reference": None}, "a panel draws differences, but the study names no"),
        ({"scores": [{"metric": "x", "paper": {"DKD": 1}}]}, "a row of the paper's x is 'DKD', but there are"),
        ({"scores": [{"metric": "x", "paper": {"KD": {"level 2": 1}}}]}, "a column of the paper's x is 'level 2'"),
        ({"scores": [{"metrik": "test/accuracy"}]}, "metrik"),
        ({"columns": {"a": {"rows": {"DKD": {}}}}}, "a row that a column sets apart is 'DKD', but there are 'student'"),
    ],
)
def test_a_wrong_study_file_is_one_sentence(
    changes: dict[str, Any], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(write(tmp_path, **changes))
    (line,) = capsys.readouterr().err.splitlines()
    assert sentence in line
