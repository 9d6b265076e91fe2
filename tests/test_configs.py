"""Every recipe runs as a user would run it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.cli import main
from distill.command.command_line import Configuration
from distill.rank.rank import Ranking
from distill.study.figure import Panel
from distill.study.run import train
from distill.study.study import Study, plan_runs
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
from tests.waiting import wait_until

CONFIGS = Path(__file__).parents[1] / "configs"
PARTS = sorted(path for folder in ("data", "task", "trainer") for path in (CONFIGS / folder).glob("*.yaml"))
STUDIES = sorted((CONFIGS / "studies").glob("*.yaml"))
RANKINGS = sorted((CONFIGS / "rank").glob("*.yaml"))
RECIPES = sorted(set(CONFIGS.rglob("*.yaml")) - set(STUDIES) - set(RANKINGS) - set(PARTS))


Writer = Callable[[Path, pytest.MonkeyPatch], dict[str, Any]]


def frames(write: Callable[[Path], Path], **further: Any) -> Writer:
    return lambda folder, _: {"root": write(folder), "size": [32, 96], **further}


def cifar100(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    write_cifar100(folder, monkeypatch)
    return {"root": folder}


def kitti_depth(folder: Path, _: pytest.MonkeyPatch) -> dict[str, Any]:
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


def semantic_kitti(folder: Path, _: pytest.MonkeyPatch) -> dict[str, Any]:
    root = write_semantic_kitti(folder)
    return {"root": root, "train_sequences": [0], "crop": "null", "augmentation.init_args.crop": [32, 64]}


def ravdess(folder: Path, _: pytest.MonkeyPatch) -> dict[str, Any]:
    root = write_ravdess(folder)
    return {"root": root, "cache_dir": folder / "cache", "val_actors": [19], "test_actors": [21], "size": 32}


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
}
OWN_DATA = [path for path in RECIPES if path.parent.name not in TREES]
FETCHED_DATA = [path for path in RECIPES if path.parent.name in TREES]
# each data set and network at least once, and each kind of method; test_combinations.py has all methods
TRIED = [
    "kitti_semantics/lix_sne_roadseg",
    "kitti_semantics/teacher_off_net",
    "kitti_semantics/dwld_off_net",
    "vkitti2/student_mfnet",
    "vkitti2/arfd_mfnet",
    "vkitti2/kd_sne_roadseg",
    "cityscapes/cwd_mfnet",
    "cityscapes/dkd_off_net",
    "semantic_kitti/2dpass_image",
    "semantic_kitti/kd_fused",
    "semantic_kitti/ntdh_image",
    "semantic_kitti/pssm_image",
    "semantic_kitti/teacher_fused",
    "nyu/ntdh_image",
    "nyu/student_depth",
    "ravdess/crd_audio",
    "ravdess/fitnet_audio",
    "ravdess/ntdh_audio",
    "cifar100/crd",
    "cifar100/fitnet",
    "cifar100/kd-ds",
    "cifar100/rkd",
    "kitti_depth/baseline_resnet18",
    "kitti_depth/reskd_ssim_si_mobilenetv2",
    "kitti_depth/teacher_bts",
    "kitti_depth/tiekd_mobilenetv2_adabins",
    "kitti_depth/tiekd_resnet18",
]
STAGED = ("fitnet", "fsp", "ft")
SMALL: dict[str, dict[str, Any]] = {
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


def fit_two_steps(config: Path, folder: Path, *options: str) -> Path:
    """Fits as the recipe says, but for its length; returns the run's folder."""
    steps = ["--trainer.max_epochs=2", "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1"]
    steps += ["--trainer.check_val_every_n_epoch=1"]
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
    main(["fit", "--config", str(config), "--logs_dir", str(folder / "logs"), *steps, *quiet, *options])
    (last,) = (folder / "logs").rglob("last.ckpt")
    run = last.parents[1]
    assert run.relative_to(folder / "logs").parent.as_posix() == yaml.safe_load(config.read_text())["name"]
    assert (run / "fit.yaml").is_file()
    assert "train/loss" in (run / "metrics.csv").read_text()
    return run


@pytest.mark.parametrize("config", OWN_DATA, ids=names(OWN_DATA))
@pytest.mark.filterwarnings("ignore:the teacher .* has random weights")
def test_recipe_ends_a_fit_of_two_steps(config: Path, tmp_path: Path) -> None:
    few = {"n_train": 16, "n_val": 8, "n_test": 8} if config.parent.name == "scenes" else {}
    fit_two_steps(config, tmp_path, *(f"--data.init_args.{name}={count}" for name, count in few.items()))


@pytest.mark.parametrize("recipe", TRIED)
@pytest.mark.filterwarnings("ignore:the teacher .* has random weights")
def test_recipe_of_a_fetched_data_set_ends_a_fit_of_two_steps_on_a_small_tree(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CONFIGS / f"{recipe}.yaml"
    data = TREES[config.parent.name](tmp_path / "data", monkeypatch) | {"num_workers": 0, "batch_size": 2}
    model = yaml.safe_load(config.read_text())["model"]["init_args"]
    smaller = {
        f"{role}.init_args.{name}": value
        for role in ("network", "teacher", "student")
        for name, value in _smaller(model.get(role, {})).items()
    }
    options = [f"--data.init_args.{name}={value}" for name, value in data.items()]
    options += [f"--model.init_args.{name}={value}" for name, value in smaller.items()]
    if config.stem.split("_")[0] in STAGED:
        options.append("--model.init_args.stage_one_epochs=1")
    run = fit_two_steps(config, tmp_path, *options)
    assert any((run / "figures").glob("*.png"))


def _smaller(network: dict[str, Any]) -> dict[str, Any]:
    """A smaller network than the recipe's, and no weights to fetch."""
    given = {"pretrained": "false"} if "pretrained" in network.get("init_args", {}) else {}
    return SMALL.get(network.get("class_path", ""), {}) | given


@pytest.mark.parametrize("config", FETCHED_DATA, ids=names(FETCHED_DATA))
def test_recipe_of_a_fetched_data_set_is_valid_and_starts_from_its_teacher(config: Path) -> None:
    parsed = Configuration(["--config", str(config)], run=False).config
    assert parsed.name == str(config.relative_to(CONFIGS).with_suffix(""))
    command = config.read_text().splitlines()[1]
    if config.parent.name == "kitti_depth":
        live = parsed.model.init_args.get("teacher", {}).get("class_path", "").rpartition(".")[2].lower()
        given = {
            "": "kitti_depth/",
            "storedteacher": "--data.init_args.responses",
            "adabins": "--model.teacher_checkpoint logs/kitti_depth/teacher_adabins/version_0/checkpoints/best.ckpt",
        }
        assert given[live] in command
    elif "teacher_checkpoint" in parsed.model.init_args:
        teacher = parsed.name.replace(parsed.name.split("/")[1].split("_")[0], "teacher", 1)
        assert f"--model.teacher_checkpoint logs/{teacher}/version_0/checkpoints/best.ckpt" in command
        theirs = Configuration(["--config", str(CONFIGS / f"{teacher}.yaml")], run=False).config.model.init_args
        assert theirs.inputs == parsed.model.init_args.teacher_inputs
        expected = {**vars(theirs.network.init_args), "pretrained": False}
        assert {**vars(parsed.model.init_args.teacher.init_args), "pretrained": False} == expected


@pytest.mark.parametrize("config", [*RECIPES, *STUDIES, *RANKINGS], ids=names([*RECIPES, *STUDIES, *RANKINGS]))
def test_first_lines_name_source_and_command(config: Path) -> None:
    comment = [line for line in config.read_text().splitlines()[:3] if line.startswith("#")]
    assert f"--config configs/{config.relative_to(CONFIGS).as_posix()}" in " ".join(comment)


@pytest.mark.parametrize("config", STUDIES, ids=names(STUDIES))
def test_all_runs_of_a_study_have_a_valid_configuration(config: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(config.read_text())
    scores = [Score(**score) for score in content.pop("scores")]
    panels = [Panel(**panel) for panel in content.pop("panels", [])]
    plan = Study(**content, scores=scores, panels=panels, logs_dir=str(tmp_path))
    of_data = [name for name, part in plan.columns.items() if set(part) == {"data"}]
    for name in of_data[1:-1]:  # these differ in values alone
        del plan.columns[name]
    runs = plan_runs(plan)
    rows = len(plan.rows) + (plan.teacher is not None)
    assert len(runs) == rows * len(plan.columns) * len(plan.all_seeds)
    assert len({run.fingerprint for run in runs}) == len(runs)


def test_rows_of_the_study_on_semantic_kitti_end_a_fit_of_one_step_on_a_small_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = yaml.safe_load((CONFIGS / "studies" / "ntdh_semantic_kitti.yaml").read_text())
    masked = ("2DPASS 25 % true", "PMF 50 % random", "image to points 75 % false")
    content["rows"] = {name: content["rows"][name] for name in ("lidar", "2DPASS", "fused", *masked)}
    _shrink(content)
    data = content["base"]["data"]["init_args"]
    root = write_semantic_kitti(tmp_path / "data", count=2)
    data |= {"root": str(root), "train_sequences": [0], "crop": None, "batch_size": 2, "num_workers": 0}
    data["augmentation"]["init_args"]["crop"] = [32, 64]
    content["base"]["trainer"] |= {"max_epochs": 1, "accelerator": "cpu"}
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
    alone = Configuration(recipe, run=False).config.trainer
    there = Configuration([*recipe, "--trainer", str(CONFIGS / "trainer" / f"{name}.yaml")], run=False).config.trainer
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
