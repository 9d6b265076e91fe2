"""All methods together, from YAML, as a user would run them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

from distill.cli import main
from tests.methods.examples import EXAMPLES

OPTIONS: dict[str, dict[str, Any]] = {
    "AFKD": {"discriminator_lr": 0.001},
    "CRD": {"num_samples": None, "negatives": 32},
    "DimensionalStructure": {"dimension": 32},
    "FitNet": {"joint": False, "stage_one_epochs": 1},
}
PARTS = {name: example.cifar() for name, example in EXAMPLES.items() if example.cifar and name != "Combined"}


def part(name: str) -> dict[str, Any]:
    return {"class_path": f"distill.methods.{name}", "init_args": PARTS[name] | OPTIONS.get(name, {})}


def network(name: str) -> dict[str, Any]:
    return {"class_path": f"distill.models.{name}", "init_args": {"num_classes": 10, "in_channels": 1}}


def recipe(folder: Path) -> Path:
    content = {
        "name": "everything",
        "data": {
            "class_path": "datamodules.NoisyPair",
            "init_args": {"signal_to_noise": 0.5, "val_size": 8, "test_size": 4976, "batch_size": 8},
        },
        "trainer": {"max_epochs": 3, "accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False},
        "model": {
            "class_path": "distill.methods.Combined",
            "init_args": {
                "methods": {name.lower(): part(name) for name in PARTS},
                "weights": {name.lower(): 1e-3 for name in PARTS if name != "KD"},
                "teacher": network("ResNet20"),
                "student": network("ResNet8x4"),
                "teacher_inputs": ["clean"],
                "student_inputs": ["noisy"],
                "task": {"class_path": "distill.Classification", "init_args": {"num_classes": 10}},
                "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.01, "momentum": 0.9}},
            },
        },
    }
    path = folder / "everything.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.filterwarnings("ignore:the teacher .* has random weights", "ignore:Checkpoint directory .* exists")
def test_all_methods_train_together_and_go_on_where_they_were_stopped(tmp_path: Path) -> None:
    def fit(logs: str, *options: str) -> Path:
        main(["fit", "--config", str(recipe(tmp_path)), "--logs_dir", str(tmp_path / logs), *options])
        return tmp_path / logs / "everything" / "version_0"

    def weights(run: Path) -> dict[str, torch.Tensor]:
        state: dict[str, torch.Tensor] = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        return state

    whole = fit("whole")
    fit("parts", "--trainer.max_epochs", "2")
    resumed = weights(fit("parts", "--ckpt_path", "last"))
    for name, value in weights(whole).items():
        assert torch.equal(value, resumed[name]), name

    metrics = pd.read_csv(whole / "metrics.csv")
    assert metrics["train/loss"].notna().sum() == 3
    terms = [name for name in metrics if name.startswith("train/") and name not in ("train/loss", "train/hard")]
    assert {name.split("/")[1] for name in terms} == {name.lower() for name in PARTS}
    assert {"train/kd/kd", "train/fitnet/hint", "train/alkd/discriminator", "train/lix/arfd/arfd"} <= set(terms)
    stage_one, stage_two = (metrics[name].dropna().tolist() for name in ("train/ft/reconstruction", "train/ft/ft"))
    assert [value > 0 for value in stage_one] == [True, False, False]
    assert [value > 0 for value in stage_two] == [False, True, True]
