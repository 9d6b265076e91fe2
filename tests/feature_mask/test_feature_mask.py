"""NTDH's Algorithm 1 as a fit."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distill import Classification, FeatureMask, MultiLabelClassification, Task
from distill.cli import main
from distill.feature_mask.feature_mask import FEATURES_AT_ONCE, _interleaved
from distill.models import MLP
from tests.losses.cases import kl, softmax
from tests.processes import as_torchrun_does, run_in_processes
from tests.toys import CLASSES, ON_DEPTH, ON_MAPS, ToyData, make_batch, pair_arguments, quiet_trainer

CONFIG = "configs/sklearn/feature_mask.yaml"


def fit(folder: Path, method: str = "", **changes: Any) -> tuple[FeatureMask, dict[str, Any]]:
    module = FeatureMask(**pair_arguments(method, teacher_inputs=["x_a", "x_b"]), **changes)
    quiet_trainer(folder).fit(module, ToyData(method=method))
    with np.load(folder / "salience.npz", allow_pickle=False) as file:
        return module, {name: file[name] for name in file.files}


@pytest.mark.parametrize("salience", ["permute", "zero", "solo"])
def test_a_fit_writes_the_salience_of_each_feature_of_the_teacher_in_0_to_1(salience: Any, tmp_path: Path) -> None:
    _, found = fit(tmp_path, salience=salience, repeats=2)
    assert {name: values.shape for name, values in found.items()} == {"x_a": (6,), "x_b": (4,)}
    values = np.concatenate(list(found.values()))
    assert values.min() >= 0
    assert values.max() == 1
    assert len(set(values.round(6))) > 1


def test_pixels_are_the_features_of_maps(tmp_path: Path) -> None:
    _, found = fit(tmp_path, ON_MAPS, salience="zero")
    assert {name: values.shape for name, values in found.items()} == {"x_a": (3, 4), "x_b": (3, 4)}


def test_the_loss_is_equation_26_and_trains_both_networks(tmp_path: Path) -> None:
    module = FeatureMask(**pair_arguments(), distance_weight=0.5, temperature=2.0).double()
    batch = {name: x.double() if x.is_floating_point() else x for name, x in make_batch(5).items()}
    module.eval()
    assert module.teacher is not None
    teacher, student = module.teacher(batch["x_a"], batch["x_b"]), module(batch["x_b"])

    def cross_entropy(logits: Tensor) -> Tensor:
        return -torch.stack([softmax(z)[y].log() for z, y in zip(logits, batch["target"].tolist(), strict=True)]).mean()

    distance = torch.stack([kl(softmax(t / 2), softmax(s / 2)) for t, s in zip(teacher, student, strict=True)]).mean()
    expected = 0.5 * 4 * distance + cross_entropy(teacher) + cross_entropy(student)
    weights = [module.get_parameter(f"{name}.head.weight") for name in ("teacher", "network")]
    gradients = torch.autograd.grad(expected, weights)
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    loss = module.training_step(batch, 0)["loss"]
    torch.testing.assert_close(loss, expected)
    for found, gradient in zip(torch.autograd.grad(loss, weights), gradients, strict=True):
        torch.testing.assert_close(found, gradient)


def test_the_same_seed_gives_the_same_salience_from_no_more_than_max_samples(
    tmp_path: Path,
) -> None:
    found = []
    for name in ("a", "b"):
        torch.manual_seed(5)
        module = FeatureMask(**pair_arguments(), max_samples=3, repeats=2)
        torch.manual_seed(6)
        assert module.network is not None
        seen: list[int] = []
        module.network.register_forward_hook(lambda _, inputs, __, seen=seen: seen.append(len(inputs[0])))
        quiet_trainer(tmp_path / name).fit(module, ToyData())
        assert seen[-1] == 3
        found.append(np.load(tmp_path / name / "salience.npz")["x_a"])
    assert np.array_equal(*found)


def test_a_checkpoint_holds_both_networks_and_scores_the_student(tmp_path: Path) -> None:
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
    common = ["--config", CONFIG, "--logs_dir", str(tmp_path), *quiet]
    main(["fit", *common, "--trainer.max_epochs", "2", "--trainer.check_val_every_n_epoch", "1"])
    run = tmp_path / "sklearn/feature_mask/version_0"
    assert {path.name for path in (run / "figures").iterdir()} == {"salience.png"}
    state = torch.load(run / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    assert {"teacher.classifier.weight", "network.classifier.weight"} <= state.keys()
    main(["test", *common, "--ckpt_path", "best"])
    assert "test/accuracy" in (run / "test.csv").read_text()


def test_predictions_other_than_logits_are_refused_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="FeatureMask compares logits of classes, but DepthEstimation has no classes"):
        fit(tmp_path, ON_DEPTH)


@pytest.mark.parametrize("task", [Classification(CLASSES), MultiLabelClassification(CLASSES)])
def test_several_classes_of_a_sample_are_refused_before_the_first_step(task: Task) -> None:
    labels = torch.eye(CLASSES)[[0, 1, 2, 3, 0, 1]]  # soft labels of the one, several labels of the other
    with pytest.raises(ValueError, match=r"^FeatureMask needs one class index for each sample, but a sample may have"):
        FeatureMask(**pair_arguments(task=task)).check_batch(make_batch() | {"target": labels})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"salience": "shuffle"}, "salience must be one of permute, zero, solo, got 'shuffle'"),
        ({"repeats": 0}, "repeats must be at least 1, got 0"),
        ({"rows": 0}, "rows must be at least 1, got 0"),
        ({"max_samples": 0}, "max_samples must be at least 1, got 0"),
        ({"distance_weight": -1.0}, "distance_weight must be at least 0, got -1.0"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
    ],
)
def test_arguments_out_of_range_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        FeatureMask(**pair_arguments(), **changes)


def every_nth(rank: int, world_size: int) -> Tensor:
    return _interleaved(torch.arange(5)[rank::world_size])


@pytest.mark.ddp
def test_rows_dealt_to_several_processes_are_put_back_in_order() -> None:
    for whole in run_in_processes(every_nth, 2):
        assert torch.equal(whole, torch.arange(5))


def find_salience(folder: Path, features: int, samples: int, **settings: Any) -> None:
    """A fit that moves nothing, with a teacher of so many features, of which so many samples are looked at."""
    torch.manual_seed(3)
    arguments = pair_arguments(teacher=MLP(features, CLASSES).eval(), student=MLP(4, CLASSES), teacher_inputs=["x_a"])
    arguments["optimizer"] = partial(torch.optim.SGD, lr=0.0)
    module = FeatureMask(**arguments, salience="solo", max_samples=samples)
    data = ToyData(make_batch() | {"x_a": torch.randn(6, features)})
    quiet_trainer(folder, max_epochs=1, **settings).fit(module, data)


def find_salience_in_part(rank: int, size: int, folder: str, cases: list[tuple[int, int]]) -> None:
    with as_torchrun_does(rank, size):
        for features, samples in cases:
            find_salience(Path(folder, f"{features}_{samples}"), features, samples, strategy="ddp", devices=size)


@pytest.mark.ddp
def test_several_processes_find_the_same_salience_as_one(tmp_path: Path) -> None:
    # fewer features than processes, fewer samples, and a process with a round more than the other
    cases = [(1, 6), (6, 1), (2 * FEATURES_AT_ONCE + 1, 6)]
    run_in_processes(find_salience_in_part, 2, str(tmp_path / "parts"), cases)
    for features, samples in cases:
        find_salience(tmp_path / "alone", features, samples)
        alone, parts = (
            np.load(folder / "salience.npz")["x_a"]
            for folder in (tmp_path / "alone", tmp_path / "parts" / f"{features}_{samples}")
        )
        np.testing.assert_allclose(parts, alone, rtol=1e-5)
