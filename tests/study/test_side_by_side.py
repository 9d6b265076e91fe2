"""Seeds side by side learn what each learns alone, or are refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging
from torch import Tensor, nn

from datamodules import SklearnPair
from distill import Classification, DistillationModule, Supervised
from distill.cli import main
from distill.methods import CRD, DKD, KD, NTDH, PKT, PSSM, SP, VID, Combined, FitNet
from distill.models import MLP
from distill.study.run import train
from distill.study.side_by_side import SideBySide, fit_side_by_side, set_up
from distill.weighting import NontargetSampleMask
from tests.study.test_study import STUDY, plan
from tests.toys import quiet_trainer

SEEDS = (3, 5, 6)
STEPS = 9
SGD = partial(torch.optim.SGD, lr=0.3)
LAYERS: dict[str, Any] = {"teacher_layers": ["hidden.0"], "student_layers": ["hidden.0"]}
METHODS: dict[str, Callable[..., DistillationModule]] = {
    "KD": partial(KD, temperature=2.0),
    "DKD": partial(DKD, warmup_epochs=0),
    "PSSM": PSSM,
    "PSSM of KD": partial(PSSM, loss="kd", reading="drop_wrong"),
    "NTDH": partial(NTDH, beta=3.0),
    "NTDH, half of the samples by rank": partial(NTDH, sample_mask=NontargetSampleMask(0.5)),
    "SP, relations of samples": partial(SP, weight=10.0, **LAYERS),
    "PKT, relations of samples": partial(PKT, weight=100.0, **LAYERS),
}


class Normed(nn.Module):
    """A network with running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(25, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 8))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits


class WritesAtTheEnd(KD):
    def on_train_end(self) -> None:
        """Writes a file."""


class RankedOnce(KD):
    """Keeps what is another tensor for every seed."""

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.ranks = torch.rand(30)


def mlp(**arguments: Any) -> MLP:
    return MLP(25, 8, hidden=[7], **arguments)


def make_run(
    seed: int,
    method: Callable[..., DistillationModule] = KD,
    network: Callable[[], nn.Module] = mlp,
    folder: Path = Path(),
    optimizer: Any = SGD,
    batch_size: int | None = None,
    callbacks: Any = None,
    **settings: Any,
) -> Any:
    """What fit_side_by_side knows of a command line."""
    torch.manual_seed(seed)
    model = method(
        teacher=network(),
        student=network(),
        task=Classification(8),
        teacher_inputs=["x_a"],
        student_inputs=["x_b"],
        optimizer=optimizer,
    )
    trainer: dict[str, Any] = {"max_epochs": 1, "callbacks": callbacks, **settings}
    return SimpleNamespace(
        model=model,
        datamodule=SklearnPair(0.5, 30, 10, 10, seed=seed, steps_per_epoch=STEPS, batch_size=batch_size),
        trainer=quiet_trainer(folder, **trainer),
        trainer_class=partial(quiet_trainer, folder),
        config_init={"trainer": trainer},
    )


def weights(module: Supervised) -> Tensor:
    assert module.network is not None
    return torch.cat([tensor.detach().float().flatten() for tensor in module.network.state_dict().values()])


def fit_together(**options: Any) -> list[Tensor]:
    runs = []
    for seed in SEEDS:
        runs.append(make_run(seed, **options))
        set_up(runs[-1])
    fit_side_by_side(runs)
    return [weights(run.model) for run in runs]


def fit_alone(**options: Any) -> list[Tensor]:
    fitted = []
    for seed in SEEDS:
        run = make_run(seed, **options)
        run.trainer.fit(run.model, run.datamodule)
        fitted.append(weights(run.model))
    return fitted


def assert_equal(**options: Any) -> None:
    before = [weights(make_run(seed, **options).model) for seed in SEEDS]
    together, alone = fit_together(**options), fit_alone(**options)
    for start, ours, theirs in zip(before, together, alone, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        assert (theirs - start).norm() > 100 * (ours - theirs).norm()
    assert not torch.allclose(together[0], together[1], atol=0.01)


@pytest.mark.filterwarnings("ignore:the teacher .* has random weights")
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("method", METHODS)
def test_side_by_side_is_alone_for_every_seed(method: str, momentum: float, tmp_path: Path) -> None:
    assert_equal(method=METHODS[method], optimizer=partial(SGD, momentum=momentum), folder=tmp_path)


@pytest.mark.filterwarnings("ignore:the teacher .* has random weights")
@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": partial(torch.optim.AdamW, lr=0.05, weight_decay=0.1)},
        {"network": Normed},
        {"method": partial(VID, **LAYERS)},
        {"method": partial(FitNet, joint=True, weight=1.0, **LAYERS)},
        {"method": lambda **arguments: Combined(**arguments, methods={"kd": KD(), "pssm": PSSM()})},
        {"gradient_clip_val": 1e-3, "gradient_clip_algorithm": "value"},
    ],
    ids=[
        "AdamW",
        "running statistics",
        "adaptors with settings of their own",
        "stages",
        "Combined",
        "clipped by value",
    ],
)
def test_so_it_is_with(options: dict[str, Any], tmp_path: Path) -> None:
    assert_equal(folder=tmp_path, **options)


@pytest.mark.filterwarnings("ignore:the teacher .* has random weights")
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"network": partial(mlp, dropout=0.5)}, "KD with MLP cannot train side by side"),
        ({"method": partial(NTDH, sample_mask=NontargetSampleMask(0.5, "random"))}, "NTDH with MLP cannot"),
        (
            {"method": partial(CRD, memory="queue", **LAYERS)},
            "CRD cannot train side by side, because it has its own after_backward",
        ),
        ({"method": WritesAtTheEnd}, "WritesAtTheEnd cannot train side by side, because it has its own on_train_end"),
        ({"method": RankedOnce}, "RankedOnce cannot train side by side, because it keeps, outside of its"),
        ({"optimizer": torch.optim.LBFGS}, "LBFGS may mix the seeds"),
        ({"optimizer": torch.optim.Adafactor}, "Adafactor may mix the seeds"),
        ({"gradient_clip_val": 1.0}, "the norm of the gradient would be the same for all"),
        ({"batch_size": 10}, "a batch has 10 samples"),
        ({"max_epochs": 2}, "trainer.max_epochs is 2"),
        ({"precision": "64-true"}, "got 64-true"),
        ({"callbacks": [StochasticWeightAveraging(1e-2)]}, "StochasticWeightAveraging may change a fit"),
    ],
)
def test_what_would_not_be_alone_is_refused(options: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=sentence):
        fit_together(folder=tmp_path, **options)


@pytest.mark.filterwarnings("ignore:the teacher .* has random weights")
def test_a_seed_that_diverges_leaves_the_others_what_they_are_alone(tmp_path: Path) -> None:
    runs = []
    for seed in SEEDS:
        runs.append(make_run(seed, folder=tmp_path))
        if seed == SEEDS[1]:
            nn.init.constant_(next(runs[-1].model.network.parameters()), torch.nan)
        set_up(runs[-1])
    assert fit_side_by_side(runs) == [None, 0, None]
    alone = fit_alone(folder=tmp_path)
    for position in (0, 2):
        torch.testing.assert_close(weights(runs[position].model), alone[position], rtol=1e-4, atol=1e-5)


def test_the_first_step_in_which_a_loss_is_not_finite_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(1, folder=tmp_path)
    set_up(run)
    together = SideBySide([run.model, run.model], [next(iter(run.datamodule.train_dataloader()))] * 2)
    for step, second in enumerate([1.0, torch.inf, 1.0, torch.nan]):
        monkeypatch.setattr(together, "_losses", lambda batch, second=second: torch.tensor([1.0, second]))
        together.training_step({}, step)
    assert together.diverged == [None, 1]


class StrangeOfSeedOne(MLP):
    """Has no finite weight where the seed is 1."""

    def __init__(self) -> None:
        super().__init__(25, 2)
        if torch.initial_seed() == 1:
            nn.init.constant_(next(self.parameters()), torch.nan)


def test_a_seed_that_diverges_in_a_study_is_named_and_the_others_have_their_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill.study.run._be_quiet", lambda: None)  # for good, in the process of the tests
    base = copy.deepcopy(STUDY["base"])
    base["trainer"]["max_epochs"] = 1
    base["data"]["init_args"] = {"steps_per_epoch": 3}
    teacher = copy.deepcopy(STUDY["teacher"])
    teacher["model"]["init_args"]["network"] = {"class_path": f"{__name__}.StrangeOfSeedOne"}
    rows = {"student": STUDY["rows"]["student"]}
    runs = plan(tmp_path, base=base, teacher=teacher, rows=rows, columns={"": {}}, seeds=3).values()
    for row in ("teacher", "student"):
        train([run for run in runs if run.row == row])
    results = {str(run): run.result() or {} for run in runs}
    sentence = "the loss of seed 1 is NaN or infinite from step 0 on: lower the learning rate, or leave side_by_side"
    assert results["teacher · seed 1"]["error"].startswith(sentence)
    assert results["student · seed 1"]["error"].startswith(f"its teacher failed: {sentence}")
    for name in ("teacher · seed 0", "teacher · seed 2", "student · seed 0", "student · seed 2"):
        assert 0 <= results[name]["scores"]["test/accuracy"] <= 1
    assert not any(run.best.exists() for run in runs if run.seed == 1)


def test_a_seed_whose_test_fails_takes_no_scores_from_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def test(trainer: Trainer, module: Any, data: SklearnPair, **settings: Any) -> Any:
        if data.seed == 1:
            raise OSError("no such file")
        return of_lightning(trainer, module, data, **settings)

    of_lightning = Trainer.test
    monkeypatch.setattr(Trainer, "test", test)
    monkeypatch.setattr("distill.study.run._be_quiet", lambda: None)  # for good, in the process of the tests
    base = copy.deepcopy(STUDY["base"])
    base["trainer"]["max_epochs"] = 1
    base["data"]["init_args"] = {"steps_per_epoch": 3}
    rows = {"student": STUDY["rows"]["student"]}
    runs = list(plan(tmp_path, base=base, teacher=None, rows=rows, columns={"": {}}, seeds=3).values())
    train(runs)
    results = [run.result() or {} for run in runs]
    assert [result.get("error") for result in results] == [None, "no such file", None]
    assert [run.best.exists() for run in runs] == ["scores" in result for result in results] == [True, False, True]


def test_a_step_that_is_tried_moves_no_running_statistics(tmp_path: Path) -> None:
    runs = [make_run(seed, network=Normed, folder=tmp_path) for seed in SEEDS]
    for run in runs:
        set_up(run)
    before = [weights(run.model) for run in runs]
    batch = {"x_a": torch.randn(5, 25), "x_b": torch.randn(5, 25), "target": torch.zeros(5).long()}
    SideBySide([run.model for run in runs], [batch] * 3).give_back()
    assert all(torch.equal(weights(run.model), old) for run, old in zip(runs, before, strict=True))


def test_a_study_side_by_side_has_the_results_of_one_that_is_not(tmp_path: Path) -> None:
    study = copy.deepcopy(STUDY) | {"seeds": 3}
    study["base"]["trainer"]["max_epochs"] = 1
    study["base"]["data"]["init_args"] = {"steps_per_epoch": 30, "train_size": 50, "val_size": 20, "test_size": 100}
    study["columns"] = {"level 6": study["columns"]["level 6"]}
    del study["rows"]["broken"]
    layers = {"teacher_layers": ["classifier"], "student_layers": ["classifier"]}
    remembering = {"class_path": "distill.methods.CRD", "init_args": {"negatives": 4, "dimension": 3, **layers}}
    study |= {"rows": {**study["rows"], "CRD": {"model": remembering}}, "alone": ["CRD"]}
    results = []
    for side_by_side in (True, False):
        path = tmp_path / f"{side_by_side}.yaml"
        changes = {"side_by_side": side_by_side, "logs_dir": str(tmp_path / path.stem)}
        path.write_text(yaml.safe_dump(study | changes))
        main(["study", "--config", str(path)])
        found = sorted((tmp_path / path.stem).rglob("result.json"))
        results.append({str(file.relative_to(tmp_path / path.stem)): json.loads(file.read_text()) for file in found})
    together, alone = results
    assert together.keys() == alone.keys()
    assert len(together) == 12
    for name, result in together.items():
        assert result["fingerprint"] == alone[name]["fingerprint"]
        for score, value in result["scores"].items():
            # CRD divides similarities by 0.07, and with them what the number of threads changes in the last bits
            assert value == pytest.approx(alone[name]["scores"][score], abs=1e-4, rel=5e-4), (name, score)
    fit = yaml.safe_load((tmp_path / "True/tiny/level_6/KD/seed_2/fit.yaml").read_text())
    assert fit["data"]["init_args"]["seed"] == fit["seed_everything"] == 2
