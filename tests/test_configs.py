"""Every recipe and every row of a study runs as a user would run it."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.cli import main
from distill.command.command_line import fit_parser
from distill.rank.rank import Ranking
from distill.study.figure import Panel
from distill.study.plan_file import read_file
from distill.study.run import train
from distill.study.study import Study, configuration_of, plan_runs
from distill.study.table import Score
from tests.datamodules.image_trees import write_cifar100
from tests.datamodules.recordings import write_ravdess
from tests.datamodules.trees import (
    write_cityscapes,
    write_kitti_depth,
    write_kitti_semantics,
    write_nyu_labeled,
    write_responses,
    write_semantic_kitti,
    write_virtual_kitti2,
)
from tests.datamodules.volumes import write_brats
from tests.waiting import wait_until

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
PARTS = {path for name in ("data", "task", "trainer", "studies/parts") for path in (CONFIGS / name).glob("*.yaml")}
STUDIES = sorted((CONFIGS / "studies").glob("*.yaml"))
RANKINGS = sorted((CONFIGS / "rank").glob("*.yaml"))
RECIPES = sorted(set(CONFIGS.rglob("*.yaml")) - set(STUDIES) - set(RANKINGS) - PARTS)

Options = dict[str, Any]
Writer = Callable[[Path, pytest.MonkeyPatch], Options]


def frames(write: Callable[[Path], Path], **further: Any) -> Writer:
    return lambda folder, _: {"root": write(folder), "size": [32, 96], **further}


def cifar100(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Options:
    write_cifar100(folder, monkeypatch)
    return {"root": folder}


def kitti_depth(folder: Path, _: pytest.MonkeyPatch) -> Options:
    root = write_kitti_depth(folder, size=(160, 224))
    return {
        "raw_dir": root / "raw",
        "depth_dir": root / "depth",
        "train_list": root / "train.txt",
        "test_list": root / "test.txt",
        "responses": write_responses(folder / "responses", root / "raw"),
        "kb_crop": "false",
        "augmentation.init_args.crop": [160, 64],
    }


def semantic_kitti(folder: Path, _: pytest.MonkeyPatch) -> Options:
    root = write_semantic_kitti(folder)
    return {"root": root, "train_sequences": [0], "crop": "null", "augmentation.init_args.crop": [32, 64]}


def ravdess(folder: Path, _: pytest.MonkeyPatch) -> Options:
    root = write_ravdess(folder)
    return {"root": root, "cache_dir": folder / "cache", "val_actors": [19], "test_actors": [21], "size": 32}


def mri(folder: Path, _: pytest.MonkeyPatch) -> Options:
    return {"root": write_brats(folder), "patch_size": [8, 8, 8], "divisor": 2}


# data sets that must be fetched: what writes a small tree in their format and says where it is
TREES: dict[str, Writer] = {
    "kitti_semantics": frames(write_kitti_semantics),
    "vkitti2": frames(write_virtual_kitti2, n_images="null"),
    "cityscapes": frames(write_cityscapes),
    "nyu": frames(write_nyu_labeled),
    "kitti_depth": kitti_depth,
    "semantic_kitti": semantic_kitti,
    "ravdess": ravdess,
    "cifar100": cifar100,
    "mri": mri,
}
FETCHED_DATA = [path for path in RECIPES if path.parent.name in TREES]
# rows of studies beside the recipes, data set by data set: each kind of method, and networks that no recipe has
ROWS = [
    ("vkitti2", "lix_vkitti2", "student", "MFNet"),
    ("vkitti2", "lix_vkitti2", "CWD", "MFNet"),
    ("vkitti2", "lix_vkitti2", "DWLD", "MFNet"),
    ("vkitti2", "lix_vkitti2", "ARFD", "MFNet"),
    ("cityscapes", "lix_cityscapes", "student", "OFF-Net"),
    ("kitti_semantics", "lix_kitti_semantics", "KD", "SNE-RoadSeg"),
    *(
        ("cifar100", "ds_cifar100", row, "")
        for row in ("student", "DKD", "ALKD", "FitNet", "AT", "AFKD", "FT", "NST", "VID", "CRD", "SemCKD")
    ),
    *(("cifar100", "ds_cifar100", row, "") for row in ("RKD", "SP", "PKT", "CC", "FSP", "DS", "KD + DS")),
    ("kitti_depth", "tiekd_kitti", "BTS", ""),
    ("kitti_depth", "tiekd_kitti", "Res-KD SSIM+SI", ""),
    ("kitti_depth", "tiekd_kitti", "TIE-KD beside AdaBins", ""),
    ("kitti_depth", "tiekd_kitti_backbones", "ground truth", "ResNet18"),
    ("kitti_depth", "tiekd_kitti_backbones", "TIE-KD", "ResNet18"),
    ("ravdess", "ntdh_ravdess", "student", ""),
    ("ravdess", "ntdh_ravdess", "CRD", ""),
    ("ravdess", "ntdh_ravdess", "FitNet", ""),
    ("ravdess", "ntdh_ravdess", "NTDH", ""),
    ("semantic_kitti", "pssm_semantic_kitti", "teacher", "image and points"),
    ("semantic_kitti", "pssm_semantic_kitti", "KD", "image and points"),
    ("nyu", "ntdh_nyu", "student", ""),
]
STAGED = ("FitNet", "FSP", "FT")
SMALL: dict[str, dict[str, Any]] = {
    "distill.models.UNet3d": {"channels": [2, 2]},
    "distill.models.SNERoadSeg": {"encoder_name": "resnet10t"},
    "distill.models.OFFNet": {"encoder_name": "mit_b0"},
    "distill.models.CameraStream": {"encoder_name": "resnet18"},
    "distill.models.LidarStream": {"base_channels": 8},
    "distill.models.PMF": {"encoder_name": "resnet18", "base_channels": 8},
    "distill.models.AdaBins": {
        "encoder_name": "mobilenetv3_small_050",
        "decoder_channels": 64,
        "queries": 8,
        "bins": 8,
    },
    "distill.models.BTS": {"encoder_name": "resnet10t", "decoder_channels": 64},
    "distill.models.DepthUNet": {"decoder_channels": [16, 16, 16, 16], "output_stride": 32},
}


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(CONFIGS)) for path in paths]


def study(path: Path, **changes: Any) -> Study:
    content = read_file(path) | changes
    made = {"scores": [Score(**part) for part in content["scores"]]}
    return Study(**content | made | {"panels": [Panel(**part) for part in content.get("panels", [])]})


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Options]]:
    """Options of the data of a small tree, by the name of the data set; each tree is written once."""
    written: dict[str, Options] = {}
    with pytest.MonkeyPatch.context() as patch:

        def options(name: str) -> Options:
            if name not in written:
                written[name] = TREES[name](tmp_path_factory.mktemp(name), patch) | {"num_workers": 0, "batch_size": 2}
            return written[name]

        yield options


DRAW = ("DivergenceTracker", "PredictionGallery", "DepthGallery", "ControllerTracker", "TeacherSimilarity")


def fit_two_steps(config: Path, folder: Path, *options: str) -> None:
    """Fits as the configuration says, but for its length, and looks at the run's folder."""
    steps = ["--trainer.max_epochs=2", "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1"]
    steps += ["--trainer.check_val_every_n_epoch=1"]
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
    main(["fit", "--config", str(config), "--logs_dir", str(folder / "logs"), *steps, *quiet, *options])
    (last,) = (folder / "logs").rglob("last.ckpt")
    run = last.parents[1]
    assert run.relative_to(folder / "logs").parent.as_posix() == yaml.safe_load(config.read_text())["name"]
    callbacks = yaml.safe_load((run / "fit.yaml").read_text())["trainer"]["callbacks"] or []
    draws = any(part["class_path"].rpartition(".")[2] in DRAW for part in callbacks)
    assert any((run / "figures").glob("*.png")) or not draws
    assert "train/loss" in (run / "metrics.csv").read_text()


def on_a_small_tree(config: Path, data: Options) -> list[str]:
    """The options that make a configuration's data, networks and first stage small."""
    content = yaml.safe_load(config.read_text())["model"]
    model = content["init_args"]
    options = [f"--data.init_args.{name}={value}" for name, value in data.items()]
    options += [
        f"--model.init_args.{role}.init_args.{name}={value}"
        for role in ("network", "teacher", "student")
        for name, value in _smaller(model.get(role) or {}).items()
    ]
    if content["class_path"].rpartition(".")[2] in STAGED:
        options.append("--model.init_args.stage_one_epochs=1")
    return options


def _smaller(network: dict[str, Any]) -> dict[str, Any]:
    """A smaller network than the recipe's, and no weights to fetch."""
    given = {"pretrained": "false"} if "pretrained" in network.get("init_args", {}) else {}
    return SMALL.get(network.get("class_path", ""), {}) | given


def fit_recipe(config: Path, folder: Path, trees: Callable[[str], Options]) -> None:
    name = config.parent.name
    if name in TREES:
        fit_two_steps(config, folder, *on_a_small_tree(config, trees(name)))
        return
    few = {"n_train": 16, "n_val": 8, "n_test": 8} if name == "scenes" else {}
    fit_two_steps(config, folder, *(f"--data.init_args.{key}={count}" for key, count in few.items()))


@pytest.mark.parametrize("config", RECIPES, ids=names(RECIPES))
@pytest.mark.filterwarnings("ignore:the teacher .* has random weights")
def test_recipe_ends_a_fit_of_two_steps(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trees: Callable[[str], Options]
) -> None:
    monkeypatch.setattr("callbacks.export.ONNX_PACKAGES", ("missing",))
    fit_recipe(config, tmp_path, trees)


EXPORTING = [path for path in RECIPES if "StudentExport" in json.dumps(read_file(path))]


@pytest.mark.slow
@pytest.mark.parametrize("config", EXPORTING, ids=names(EXPORTING))
@pytest.mark.filterwarnings("ignore:the teacher .* has random weights")
def test_recipe_exports_its_student_to_onnx(config: Path, tmp_path: Path, trees: Callable[[str], Options]) -> None:
    pytest.importorskip("onnxruntime")
    fit_recipe(config, tmp_path, trees)
    (student,) = tmp_path.rglob("student.onnx")
    assert student.stat().st_size > 0


@pytest.mark.parametrize(("data", "name", "row", "column"), ROWS)
@pytest.mark.filterwarnings("ignore:the teacher .* has random weights")
def test_the_printed_configuration_of_a_row_ends_a_fit_of_two_steps(
    data: str,
    name: str,
    row: str,
    column: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trees: Callable[[str], Options],
) -> None:
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "run.yaml"
    config.write_text(configuration_of(study(CONFIGS / "studies" / f"{name}.yaml"), [row, column]))
    content = yaml.safe_load(config.read_text())
    options = [*on_a_small_tree(config, trees(data)), "--trainer.callbacks=null"]  # the recipes run them
    if "teacher" in content["model"]["init_args"]:
        options.append("--model.init_args.teacher_checkpoint=null")  # the study trains it
    fit_two_steps(config, tmp_path, *options)


def test_the_rows_that_are_tried_have_every_method_of_their_studies() -> None:
    tried = {yaml.safe_load(path.read_text())["model"]["class_path"] for path in RECIPES}
    every = {"distill.methods.TwoDPASS"}  # which the test of ntdh_semantic_kitti tries
    for name in {name for _, name, _, _ in ROWS}:
        content = read_file(CONFIGS / "studies" / f"{name}.yaml")
        kinds = {
            row: part.get("model", content["base"]["model"]).get("class_path") for row, part in content["rows"].items()
        }
        tried |= {kinds[row] for _, study_name, row, _ in ROWS if study_name == name and row in kinds}
        every |= set(kinds.values()) - {None}
    assert every - tried == {"distill.methods.TwoDPASS"}


@pytest.mark.parametrize("config", FETCHED_DATA, ids=names(FETCHED_DATA))
def test_recipe_of_a_fetched_data_set_is_valid_and_starts_from_its_teacher(config: Path) -> None:
    command = config.read_text().splitlines()[1].removeprefix("# python train.py fit ")
    parsed = fit_parser().parse_args(shlex.split(command))
    assert parsed.name == str(config.relative_to(CONFIGS).with_suffix(""))
    if "teacher_checkpoint" not in parsed.model.init_args:
        return
    if config.parent.name == "kitti_depth":
        assert parsed.model.init_args.teacher.class_path == "distill.models.StoredTeacher"
        assert parsed.data.init_args.responses
        return
    teacher = f"{config.parent.name}/teacher"
    assert parsed.model.init_args.teacher_checkpoint == f"logs/{teacher}/version_0/checkpoints/best.ckpt"
    its = fit_parser().parse_args(["--config", str(CONFIGS / f"{teacher}.yaml")]).model.init_args
    assert its.inputs == parsed.model.init_args.teacher_inputs
    expected = {**vars(its.network.init_args), "pretrained": False}
    assert {**vars(parsed.model.init_args.teacher.init_args), "pretrained": False} == expected


@pytest.mark.parametrize("config", [*RECIPES, *STUDIES, *RANKINGS], ids=names([*RECIPES, *STUDIES, *RANKINGS]))
def test_first_lines_name_source_and_command(config: Path) -> None:
    comment = [line for line in config.read_text().splitlines()[:5] if line.startswith("#")]
    assert f"--config configs/{config.relative_to(CONFIGS).as_posix()}" in " ".join(comment)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", *sorted(map(str, (ROOT / "docs").glob("*.md")))])
def test_every_configuration_that_the_documentation_names_exists(page: str) -> None:
    text = (ROOT / page).read_text()
    of_reader = re.findall(r"^# (configs/\S+)$", text, re.MULTILINE)  # files that the page shows
    named = re.findall(r"configs/[\w/.-]+\.(?:yaml|sh)", text)
    assert [name for name in named if not (ROOT / name).is_file() and name not in of_reader] == []


def shape(part: Any) -> Any:
    """A part of a configuration, of whose numbers the types alone are left: other numbers parse as these do."""
    if isinstance(part, dict):
        return {key: shape(value) for key, value in part.items()}
    if isinstance(part, list):
        return [shape(value) for value in part]
    return type(part).__name__ if type(part) in (int, float) else part


def settings_in(part: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The values of a part with their places; of numbers the types."""
    items = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
    for key, value in items:
        yield from settings_in(value, (*path, key))
    if not isinstance(part, (dict, list)) or not part:
        yield (*path, repr(shape(part)))


def one_with_each_setting(parts: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The parts without those whose settings all stand in earlier ones; all parts must differ."""
    assert len({json.dumps(part, sort_keys=True) for part in parts.values()}) == len(parts)
    seen: set[tuple[Any, ...]] = set()
    chosen: dict[str, dict[str, Any]] = {}
    for name, part in parts.items():
        settings = set(settings_in(part))
        if not settings <= seen or not chosen:
            chosen[name] = part
        seen |= settings
    return chosen


@pytest.mark.parametrize("config", STUDIES, ids=names(STUDIES))
def test_all_settings_of_a_study_are_valid(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = study(config)
    rows, columns = one_with_each_setting(plan.rows), one_with_each_setting(plan.columns)
    used = {name for part in rows.values() for name in plan.rows if f"{{{name}}}" in json.dumps(part)}
    first, *others = columns
    plan.rows = {name: part for name, part in plan.rows.items() if name in rows or name in used}
    plan.columns = {first: columns[first]}  # all rows in the first column, in the others those that they change
    runs = plan_runs(plan)
    assert len(runs) == len(plan.all_rows) * len(plan.all_seeds)
    changed = {name for column in others for name in columns[column].get("rows", {})}
    plan.rows = {name: part for name, part in plan.rows.items() if name in changed or name == next(iter(rows))}
    plan.columns = {name: columns[name] for name in others}
    if others:
        runs += plan_runs(plan)
    # what a column changes may be the same for some rows in all columns
    assert len({(run.fingerprint, run.column if run.row in changed else "") for run in runs}) == len(runs)


def test_rows_of_the_study_on_semantic_kitti_end_a_fit_of_one_step_on_a_small_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = read_file(CONFIGS / "studies" / "ntdh_semantic_kitti.yaml")
    masked = ("2DPASS 25 % true", "PMF 50 % random", "image to points 75 % false")
    content["rows"] = {name: content["rows"][name] for name in ("lidar", "2DPASS", "fused", *masked)}
    _shrink(content)
    data = content["base"]["data"]["init_args"]
    root = write_semantic_kitti(tmp_path / "data", count=2)
    data |= {"root": str(root), "train_sequences": [0], "crop": None, "batch_size": 2, "num_workers": 0}
    data["augmentation"]["init_args"]["crop"] = [32, 64]
    content["columns"] = {"": {"trainer": {"max_epochs": 1, "accelerator": "cpu", "logger": False}}}
    content["base"]["trainer"]["callbacks"] = [{"class_path": "callbacks.DivergenceTracker"}]
    for part in (content["teacher"], *content["rows"].values()):
        if "trainer" in part:
            part["trainer"]["callbacks"] = None
    del content["scores"]
    plan = Study(**content, logs_dir=str(tmp_path / "logs"))
    runs = plan_runs(plan)
    for run in runs:
        train([run])
    assert [run.row for run in runs] == ["teacher", *content["rows"]]
    scores = {run.row: (run.result() or {})["scores"] for run in runs}
    assert all(0 <= its["test/mIoU"] <= 1 for its in scores.values())
    assert [name for name, its in scores.items() if "test/ncjsd" in its] == ["2DPASS", *masked]
    assert scores["2DPASS 25 % true"]["train/kl"] < scores["2DPASS"]["train/kl"]


def _shrink(content: Any) -> None:
    """Makes every network in a configuration a small one, without weights to fetch."""
    for part in content.values() if isinstance(content, dict) else ():
        _shrink(part)
    if isinstance(content, dict) and "class_path" in content:
        content.setdefault("init_args", {}).update(
            {name: False if value == "false" else value for name, value in _smaller(content).items()}
        )


@pytest.mark.parametrize("config", RANKINGS, ids=names(RANKINGS))
def test_all_runs_of_a_ranking_have_a_valid_configuration(config: Path, tmp_path: Path) -> None:
    plan = Ranking(**yaml.safe_load(config.read_text()), logs_dir=str(tmp_path))
    runs = plan_runs(plan.study)
    assert len(runs) == (1 + len(plan.candidates) * (1 + (plan.distil is not None))) * len(plan.study.all_seeds)


@pytest.mark.parametrize("name", ["ddp", "slurm"])
def test_a_cluster_adds_to_what_a_recipe_says_of_the_trainer(name: str) -> None:
    recipe = ["--config", str(CONFIGS / "cifar100" / "kd.yaml"), "--data.init_args.root", "/data"]
    alone = fit_parser().parse_args(recipe).trainer
    there = fit_parser().parse_args([*recipe, "--trainer", str(CONFIGS / "trainer" / f"{name}.yaml")]).trainer
    assert there.strategy == "ddp"
    assert there.max_epochs == alone.max_epochs
    assert len(there.callbacks or []) == len(alone.callbacks or [])


COMMANDS = {
    "srun": 'echo $$ > step; trap "echo stopped >> said; exit 143" TERM; while :; do sleep 0.02; done',
    "scancel": '[ "$*" = "--signal=TERM 7" ] && kill -TERM "$(cat step)"',
    "scontrol": 'echo "$@" >> said',
}


def test_the_script_for_slurm_lets_the_fit_stop_and_then_puts_the_job_back(tmp_path: Path) -> None:
    for name, text in COMMANDS.items():
        command = tmp_path / name
        command.write_text(f"#!/bin/bash\n{text}\n")
        command.chmod(0o755)
    process = subprocess.Popen(
        ["bash", str(CONFIGS.absolute() / "trainer" / "slurm.sh"), "recipe.yaml"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"},
        cwd=tmp_path,
        start_new_session=True,
    )
    try:
        wait_until(lambda: (tmp_path / "step").exists() and bool((tmp_path / "step").read_text()))
        process.send_signal(signal.SIGUSR1)
        process.wait(60)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # the script's sleep, which the end of a job ends
    assert (tmp_path / "said").read_text() == "stopped\nrequeue 7\n"
