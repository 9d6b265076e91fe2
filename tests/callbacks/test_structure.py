from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image
from sklearn.datasets import load_iris
from sklearn.neighbors import NearestNeighbors
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks import FeatureStructure
from callbacks.parts.layer_structure import LayerStructure
from callbacks.parts.structure_figures import NO_CLASS, embedding, embedding_figure, similarity_figure
from distill import Classification
from distill.methods import KD
from tests.callbacks.pairs import Replay, Samples, batches_of, sgd, supervised, trainer
from tests.processes import run_in_processes

CPU = torch.device("cpu")
NAMES = ("teacher_correlation", "teacher_uniformity", "student_correlation", "student_uniformity")


class ReplayFeatures(Replay):
    """Steps that return features which the batches hold: of each network the named ones of two layers."""

    def __init__(self, teacher_layers: Sequence[str] = ("late",), student_layers: Sequence[str] = ("late",)) -> None:
        super().__init__()
        self.teacher_layers, self.student_layers = teacher_layers, student_layers

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        kinds = {"early": "map", "late": "vector"}
        return {
            **super().validation_step(batch, batch_idx),
            "features": {layer: batch[f"student_{kinds[layer]}"] for layer in self.student_layers},
            "teacher_features": {layer: batch[f"teacher_{kinds[layer]}"] for layer in self.teacher_layers},
        }


BOTH = ("early", "late")


def features(count: int = 8, seed: int = 0, **others: Tensor) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator) + 0.3

    return {
        "student": drawn(3),
        "teacher": drawn(3),
        "student_map": drawn(4, 3, 2),
        "teacher_map": drawn(5, 2, 2),
        "student_vector": drawn(3),
        "teacher_vector": drawn(6),
        "target": torch.randint(3, (count,), generator=generator),
        **others,
    }


def correlation(rows: Tensor) -> float:
    """The mean absolute cosine of two different channels, pair by pair in float64."""
    channels = rows.double().T.numpy()
    pairs = [(a, b) for i, a in enumerate(channels) for j, b in enumerate(channels) if i != j]
    return float(np.mean([abs(a @ b) / (np.linalg.norm(a) * np.linalg.norm(b)) for a, b in pairs]))


def uniformity(rows: Tensor) -> float:
    """The log of the mean of exp(-2 d^2), pair by pair in float64."""
    unit = [row / np.linalg.norm(row) for row in rows.double().numpy()]
    return float(np.log(np.mean([np.exp(-2 * np.sum((a - b) ** 2)) for a in unit for b in unit])))


def expected(tensors: dict[str, Tensor], kind: str = "vector", first: int | None = None) -> dict[str, float]:
    values: dict[str, float] = {}
    for network in ("teacher", "student"):
        rows = tensors[f"{network}_{kind}"].flatten(2).mean(2) if kind == "map" else tensors[f"{network}_{kind}"]
        values |= {f"{network}_correlation": correlation(rows), f"{network}_uniformity": uniformity(rows[:first])}
    return values


def logged(run: Any, stage: str = "val", suffix: str = "") -> dict[str, float]:
    return {name: run.callback_metrics[f"{stage}/{name}{suffix}"].item() for name in NAMES}


def structure(rows: Tensor) -> Any:
    sums = LayerStructure(1000, CPU)
    sums.add(rows)
    return sums.compute()


def test_values_are_those_of_all_samples(tmp_path: Path) -> None:
    tensors = features()
    run = trainer(tmp_path, FeatureStructure(), max_epochs=1)
    run.fit(ReplayFeatures(), batches_of(**tensors), batches_of(**tensors))
    assert logged(run) == pytest.approx(expected(tensors), abs=1e-5)


def test_maps_are_averaged_over_their_positions_and_layers_are_named_where_there_are_several(tmp_path: Path) -> None:
    tensors = features()
    run = trainer(tmp_path, FeatureStructure())
    run.validate(ReplayFeatures(BOTH, BOTH), batches_of(**tensors), verbose=False)
    assert logged(run, suffix="_early") == pytest.approx(expected(tensors, "map"), abs=1e-5)
    assert logged(run, suffix="_late") == pytest.approx(expected(tensors), abs=1e-5)
    run = trainer(tmp_path, FeatureStructure(["early"], ["early"]))
    run.test(ReplayFeatures(BOTH, BOTH), batches_of(**tensors), verbose=False)
    assert logged(run, "test") == pytest.approx(expected(tensors, "map"), abs=1e-5)
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize("layers", [(BOTH, ("late",)), (("late",), BOTH)])
def test_of_layers_that_make_no_pairs_the_last_ones_are_measured(tmp_path: Path, layers: Any) -> None:
    tensors = features()
    run = trainer(tmp_path, FeatureStructure())
    run.validate(ReplayFeatures(*layers), batches_of(**tensors), verbose=False)
    assert logged(run) == pytest.approx(expected(tensors), abs=1e-5)


def test_only_the_first_samples_are_kept_but_all_are_correlated(tmp_path: Path) -> None:
    tensors = features()  # batches of three
    run = trainer(tmp_path, FeatureStructure(max_samples=4))
    run.validate(ReplayFeatures(), batches_of(**tensors), verbose=False)
    assert logged(run) == pytest.approx(expected(tensors, first=4), abs=1e-5)


def test_every_epoch_is_logged_by_itself_and_the_sanity_check_does_not_count(tmp_path: Path) -> None:
    tensors = features()
    run = trainer(tmp_path, FeatureStructure(), num_sanity_val_steps=2)
    run.fit(ReplayFeatures(), batches_of(**tensors), batches_of(**tensors))
    table = pd.read_csv(tmp_path / "run" / "metrics.csv")
    for name, value in expected(tensors).items():
        assert table[f"val/{name}"].dropna().tolist() == pytest.approx([value] * 2, abs=1e-5)


def test_correlation_of_independent_equal_opposite_and_dead_channels() -> None:
    assert structure(torch.eye(4)).correlation == 0
    one = torch.arange(1.0, 6)
    assert structure(torch.stack([one, 3 * one, -one], 1)).correlation.item() == pytest.approx(1)
    # of six pairs two, a and b, are equal; the channel of zeros goes with none
    assert structure(torch.stack([one, one, 0 * one], 1)).correlation.item() == pytest.approx(2 / 6)
    assert math.isnan(structure(one[:, None]).correlation)


def test_similarity_is_exact_however_far_features_lie_from_zero() -> None:
    rows = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).float() + 1000
    found = structure(rows)
    assert found.correlation.item() == pytest.approx(correlation(rows), abs=1e-12)
    assert (found.similarity <= 1).all()
    assert torch.allclose(found.similarity.diagonal(), torch.ones(3, dtype=torch.float64))


def test_uniformity_of_equal_and_of_spread_directions() -> None:
    assert structure(torch.ones(5, 3) * torch.arange(1.0, 6)[:, None]).uniformity.item() == pytest.approx(0, abs=1e-6)
    # each of 100 orthogonal directions is at d^2 = 2 from the 99 others and at 0 from itself
    value = math.log((1 + 99 * math.exp(-4)) / 100)
    assert structure(torch.eye(100)).uniformity.item() == pytest.approx(value, abs=1e-5)


def method() -> KD:
    torch.manual_seed(0)
    teacher, student = (nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 4)) for width in (8, 5))
    return KD(
        teacher=teacher.eval(),
        student=student,
        task=Classification(4),
        teacher_inputs=["x_a"],
        student_inputs=["x_b"],
        teacher_layers=["1"],
        student_layers=["1"],
        optimizer=sgd,
    )


def test_a_fit_is_drawn_every_few_epochs_and_at_its_end_without_running_a_model_again(tmp_path: Path) -> None:
    def calls(*callbacks: Any) -> int:
        module, count = method(), [0]

        def counted(*_: Any) -> None:
            count[0] += 1

        for network in (module.teacher, module.student):
            assert network is not None
            network.register_forward_hook(counted)
        loggers = [CSVLogger(tmp_path, name="", version="run"), TensorBoardLogger(tmp_path, name="", version="tb")]
        run = trainer(tmp_path, *callbacks, max_epochs=3, logger=loggers)
        run.fit(module, DataLoader(Samples(16), 8), DataLoader(Samples(40, 1), 8))
        return count[0]

    assert calls(FeatureStructure(every_n_epochs=2)) == calls()
    written = sorted(path.name for path in (tmp_path / "run" / "figures").iterdir())
    drawn = ["feature_similarity_epoch_0001.png", "feature_similarity_epoch_0002.png"]
    assert written == ["feature_embedding.png", *drawn]
    for name in written:
        pixels = np.asarray(Image.open(tmp_path / "run" / "figures" / name))
        assert pixels.std() > 10
    events = EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    assert len(events.Images("feature_similarity")) == 2
    assert len(events.Images("feature_embedding")) == 1


def test_a_fit_that_ends_on_its_turn_is_drawn_once_and_a_trial_run_not_at_all(tmp_path: Path) -> None:
    data = batches_of(**features())
    trainer(tmp_path / "turn", FeatureStructure(every_n_epochs=2)).fit(ReplayFeatures(), data, data)
    written = sorted(path.name for path in tmp_path.rglob("*.png"))
    assert written == ["feature_embedding.png", "feature_similarity_epoch_0001.png"]
    trainer(tmp_path / "trial", FeatureStructure(), fast_dev_run=True).fit(ReplayFeatures(), data, data)
    assert not list((tmp_path / "trial").rglob("*.png"))


class Named(LightningDataModule):
    class_names = ("cat", "dog", "owl")


def test_the_samples_in_the_plane_are_coloured_by_the_classes_of_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[list[int], Any]] = []

    def record(rows: Any, labels: Tensor, names: Any) -> Any:
        drawn.append((labels.tolist(), names))
        return embedding_figure(rows, labels, names)

    monkeypatch.setattr("callbacks.structure.embedding_figure", record)
    target = torch.tensor([0, 1, 2, 255, 2, 1, 0, 0])
    data, named = batches_of(**features(target=target)), Named()
    named.train_dataloader = named.val_dataloader = lambda: data  # type: ignore[method-assign]
    trainer(tmp_path, FeatureStructure(), max_epochs=1).fit(ReplayFeatures(), datamodule=named)
    assert drawn == [([0, 1, 2, NO_CLASS, 2, 1, 0, 0], named.class_names)]
    drawn.clear()
    dense = batches_of(**features(target=torch.zeros(8, 2, 2, dtype=torch.int64)))
    trainer(tmp_path, FeatureStructure(), max_epochs=1).fit(ReplayFeatures(), dense, dense)
    assert drawn == [([NO_CLASS] * 8, None)]


def test_a_figure_has_a_cell_for_each_layer_and_network_and_a_legend_of_the_classes_there_are() -> None:
    row = {"teacher, layer a": torch.rand(9, 4), "student, layer b": torch.rand(9, 3)}
    labels = torch.tensor([0, 0, 2, 2, 2, NO_CLASS, 0, 0, 2])
    figure = embedding_figure([row, row], labels, ["cat", "dog", "owl"])
    assert [axes.get_title() for axes in figure.axes] == [*row, *row]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["cat", "owl"]
    colours = figure.axes[0].collections[0].get_facecolors()  # type: ignore[attr-defined]
    assert len(np.unique(colours, axis=0)) == 3
    assert not embedding_figure([row], torch.full((9,), NO_CLASS)).legends
    assert not embedding_figure([{"a": torch.rand(30, 4)}], torch.arange(30)).legends
    heat = similarity_figure([{"teacher": torch.eye(4), "student": torch.ones(3, 3)}])
    assert [axes.images[0].get_clim() for axes in heat.axes[:2]] == [(0, 1), (0, 1)]
    assert heat.axes[0].get_xlim() == (-0.5, 3.5)
    assert heat.axes[1].get_xlim() == (-0.5, 2.5)


def test_the_plane_keeps_neighbours_together_and_does_not_change() -> None:
    rows, labels = load_iris(return_X_y=True)
    points = embedding(rows.astype(np.float32))
    nearest = NearestNeighbors(n_neighbors=2).fit(points).kneighbors(points, return_distance=False)[:, 1]
    assert (labels[nearest] == labels).mean() > 0.9
    assert np.array_equal(points, embedding(rows.astype(np.float32)))


@pytest.mark.parametrize("rows", [torch.ones(5, 4), torch.rand(5, 1), torch.rand(3, 4), torch.rand(40, 2)])
def test_features_that_hardly_differ_or_are_few_can_be_drawn(rows: Tensor) -> None:
    assert np.isfinite(embedding(rows.numpy())).all()


def test_features_that_cannot_be_drawn_do_not_end_the_fit(tmp_path: Path) -> None:
    for number, tensors in enumerate((features(2), features(student_vector=torch.full((8, 3), torch.nan)))):
        data = batches_of(**tensors)
        with pytest.warns(UserWarning, match="draws no samples: there are fewer than three, or features are not"):
            trainer(tmp_path / str(number), FeatureStructure(), max_epochs=1).fit(ReplayFeatures(), data, data)


def test_without_features_there_is_one_warning(tmp_path: Path) -> None:
    for module in (supervised(), method()):
        if isinstance(module, KD):
            module = KD(
                teacher=module.teacher,
                student=module.student,
                task=Classification(4),
                teacher_inputs=["x_a"],
                student_inputs=["x_b"],
                optimizer=sgd,
            )
        run = trainer(tmp_path, FeatureStructure())
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run.fit(module, DataLoader(Samples(16), 8), DataLoader(Samples(16, 1), 8))
        messages = [str(warning.message) for warning in caught if "FeatureStructure" in str(warning.message)]
        assert len(messages) == 1
        assert "there are no features of teacher and student; name teacher_layers and student_layers" in messages[0]
        assert not [name for name in run.callback_metrics if "uniformity" in name]


def test_a_layer_that_is_not_tapped_is_told_before_training(tmp_path: Path) -> None:
    data = batches_of(**features())
    run = trainer(tmp_path, FeatureStructure(["early"], ["layer4"]))
    with pytest.raises(KeyError, match="the layer layer4 among the tapped ones of the student: early, late"):
        run.fit(ReplayFeatures(BOTH, BOTH), data, data)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"teacher_layers": ["a"]}, "teacher_layers and student_layers must be pairs, got 1 and 0 layers"),
        ({"max_samples": 2}, "max_samples must be at least 3, got 2"),
        ({"every_n_epochs": 0}, "every_n_epochs must be at least 1, got 0"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FeatureStructure(**arguments)


def fit_half(rank: int, world_size: int, folder: str) -> dict[str, float]:
    environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, value in {**environment, "TORCHELASTIC_RUN_ID": "tests", "GROUP_RANK": 0}.items():
            monkeypatch.setenv(name, str(value))
        run = trainer(Path(folder), FeatureStructure(max_samples=8), strategy="ddp", devices=2, max_epochs=1)
        data = batches_of(**features())
        run.fit(ReplayFeatures(), data, data)
    return logged(run)


@pytest.mark.ddp
def test_two_processes_log_the_structure_of_all_samples(tmp_path: Path) -> None:
    first, second = run_in_processes(fit_half, 2, str(tmp_path))
    assert first == second == pytest.approx(expected(features()), abs=1e-5)
    written = sorted(path.name for path in (tmp_path / "run" / "figures").iterdir())
    assert written == ["feature_embedding.png", "feature_similarity_epoch_0000.png"]
