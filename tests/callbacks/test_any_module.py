"""The callbacks serve a module that knows nothing of this library but the keys that its steps return."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from callbacks import DivergenceTracker, FeatureStructure, PredictionGallery, StudentExport
from callbacks.parts import onnx_file
from callbacks.parts.class_figures import classification_figure
from callbacks.parts.step import read_step
from callbacks.parts.student import Deployed
from callbacks.prediction_gallery import gallery_figure
from tests.callbacks.pairs import divergences, trainer
from tests.callbacks.test_structure import uniformity

COUNT, CLASSES = 8, 3


class Foreign(LightningModule):
    """A pair in plain Lightning, with batches that are tuples: the teacher's image, the student's, the class."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [[nn.Conv2d(channels, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1)] for channels in (1, 3)]
        self.teacher, self.model = (nn.Sequential(*parts, nn.Flatten(), nn.Linear(4, CLASSES)) for parts in layers)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> dict[str, Any]:
        outputs = self.validation_step(batch, batch_idx)
        loss = F.cross_entropy(outputs["prediction"], batch[-1])
        self.log("loss", loss)
        return {"loss": loss, **{name: value.detach() for name, value in outputs.items() if name != "features"}}

    def validation_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        depth, image, _ = batch
        with torch.no_grad():
            taught = self.teacher(depth)
        return {"prediction": self.model(image), "teacher_prediction": taught}

    def test_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        outputs = self.validation_step(batch, batch_idx)
        features = {"features": {"out": outputs["prediction"]}, "teacher_features": {"out": batch[0].flatten(1)}}
        return {**outputs, "inputs": (batch[1],), "teacher_inputs": (batch[0],), **features}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.model.parameters(), lr=0.5)


class LossOnly(Foreign):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx)["loss"]

    def validation_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> Any:
        if self.trainer.state.stage == "train":
            return super().validation_step(batch, batch_idx)
        return None


@pytest.fixture(scope="module")
def samples() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    depth, image = (torch.rand(COUNT, channels, 8, 8, generator=generator) for channels in (1, 3))
    return [depth, image, torch.randint(CLASSES, (COUNT,), generator=generator)]


def loader(samples: list[Tensor]) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*samples), batch_size=4)


def test_divergences_of_any_module_are_those_of_the_definitions(tmp_path: Path, samples: list[Tensor]) -> None:
    module = Foreign()
    with torch.no_grad():
        student, teacher = module.model(samples[1]), module.teacher(samples[0])
    run = trainer(tmp_path, DivergenceTracker())
    run.validate(module, loader(samples), verbose=False)
    values = {name: run.callback_metrics[f"val/{name}"].item() for name in ("cmd", "ncjsd", "tcjsd")}
    expected = divergences(student, teacher, samples[2])
    assert values == pytest.approx({name: expected[name] for name in values}, abs=1e-6)


def test_features_of_any_module_are_measured(tmp_path: Path, samples: list[Tensor]) -> None:
    module, run = Foreign(), trainer(tmp_path, FeatureStructure())
    run.test(module, loader(samples), verbose=False)
    expected = uniformity(samples[0].flatten(1))
    assert run.callback_metrics["test/teacher_uniformity"].item() == pytest.approx(expected, abs=1e-5)


def test_samples_of_any_module_are_drawn(tmp_path: Path, samples: list[Tensor]) -> None:
    trainer(tmp_path, PredictionGallery(samples=2)).test(Foreign(), loader(samples), verbose=False)
    assert np.asarray(Image.open(tmp_path / "run" / "figures" / "predictions_test.png")).std() > 10


def test_the_best_student_of_any_module_is_exported_for_any_height_and_width(
    tmp_path: Path, samples: list[Tensor]
) -> None:
    best = ModelCheckpoint(tmp_path, "best", monitor="loss", mode="max", save_on_train_epoch_end=True)
    module, export = Foreign(), StudentExport(inputs=[1])
    trainer(tmp_path, export, best, enable_checkpointing=True).fit(module, loader(samples))
    state = torch.load(tmp_path / "best.ckpt", weights_only=True)["state_dict"]
    assert not torch.equal(state["model.3.weight"], module.state_dict()["model.3.weight"])
    module.load_state_dict(state)
    session = onnxruntime.InferenceSession(tmp_path / "run" / "student.onnx", providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert (given.name, given.shape) == ("input_1", ["batch", 3, "height", "width"])
    image = torch.rand(2, 3, 50, 33)
    (prediction,) = session.run(["prediction"], {"input_1": image.numpy()})
    np.testing.assert_allclose(prediction, module.model.eval()(image).detach().numpy(), atol=1e-5)


def test_a_network_of_one_size_is_exported_for_that_size_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def export(_: Any, samples: Any, dynamic_shapes: Any) -> bytes:
        if len(dynamic_shapes[0]) > 1:
            raise RuntimeError("trouble") from ValueError("the height is fixed\nby a linear layer")
        return b"fixed"

    monkeypatch.setattr(onnx_file, "_export", export)  # a real one takes seconds
    monkeypatch.setattr(onnx_file, "_difference", lambda *_: 0.0)
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        model = onnx_file.onnx_model(Deployed(nn.Flatten(), ("x",)), (torch.rand(2, 3, 2, 4),), 1e-4)
    assert model == b"fixed"
    (message,) = [text for text in caplog.messages if "student.onnx" in text]
    assert message == "student.onnx takes inputs of the size 2 x 4 only: the height is fixed"


def test_steps_that_return_a_loss_only_get_one_sentence_each(tmp_path: Path, samples: list[Tensor]) -> None:
    callbacks = [DivergenceTracker(), FeatureStructure(), PredictionGallery(), StudentExport(onnx=True)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(tmp_path, *callbacks).fit(LossOnly(), loader(samples), loader(samples))
    messages = [str(warning.message) for warning in caught]
    assert [text for text in messages if "DivergenceTracker" in text] == [
        "DivergenceTracker measures nothing in training: the training steps return no prediction"
    ]
    for name, verb in (("FeatureStructure", "measures"), ("PredictionGallery", "draws")):
        assert [text for text in messages if name in text] == [
            f"{name} {verb} nothing: the steps return nothing, not even a prediction"
        ]
    assert len([text for text in messages if "there is no student.onnx, because no step returned inputs" in text]) == 1


def test_a_module_without_a_student_is_refused_before_training(tmp_path: Path, samples: list[Tensor]) -> None:
    with pytest.raises(ValueError, match=r"Foreign has no network 'net' to deploy: .* they are teacher, model$"):
        trainer(tmp_path, StudentExport(student="net")).fit(Foreign(), loader(samples))


class Partial(Foreign):
    """Has no teacher's modality for some samples."""

    def validation_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        outputs = super().validation_step(batch, batch_idx)
        present = ~batch[0].isnan().flatten(1).any(1)
        return {**outputs, "present": present}


def test_samples_without_a_teacher_are_left_out(tmp_path: Path, samples: list[Tensor]) -> None:
    depth = samples[0].clone()
    depth[[1, 2, 6]] = math.nan
    kept = [0, 3, 4, 5, 7]
    values = []
    for folder, module, data in (
        ("partial", Partial(), [depth, *samples[1:]]),
        ("kept", Foreign(), [part[kept] for part in samples]),
    ):
        run = trainer(tmp_path / folder, DivergenceTracker(), FeatureStructure(), PredictionGallery(samples=1))
        run.test(module, loader(data), verbose=False)
        values.append({name: value.item() for name, value in run.callback_metrics.items()})
    assert values[0] == pytest.approx(values[1], abs=1e-6)
    assert len(values[0]) == 9


def test_each_loader_has_its_own_values_and_pictures(tmp_path: Path, samples: list[Tensor]) -> None:
    module, run = Foreign(), trainer(tmp_path, DivergenceTracker(), FeatureStructure(), PredictionGallery(samples=1))
    parts = [[part[rows] for part in samples] for rows in (slice(0, 4), slice(4, 8))]
    run.test(module, {"day": loader(parts[0]), "night": loader(parts[1])}, verbose=False)
    for suffix, (depth, image, target) in zip(("", "/night"), parts, strict=True):
        with torch.no_grad():
            expected = divergences(module.model(image), module.teacher(depth), target)
        assert run.callback_metrics[f"test/ncjsd{suffix}"].item() == pytest.approx(expected["ncjsd"], abs=1e-6)
        teacher = run.callback_metrics[f"test/teacher_uniformity{suffix}"].item()
        assert teacher == pytest.approx(uniformity(depth.flatten(1)), abs=1e-5)
    pictures = sorted(path.name for path in (tmp_path / "run" / "figures").iterdir())
    assert pictures == ["predictions_test.png", "predictions_test_night.png"]


def test_a_fits_table_has_rows_for_each_loader(tmp_path: Path, samples: list[Tensor]) -> None:
    loaders = {"day": loader(samples), "night": loader(samples)}
    trainer(tmp_path, DivergenceTracker(), max_epochs=1).fit(Foreign(), loader(samples), loaders)
    assert pd.read_csv(tmp_path / "run" / "divergence.csv")["stage"].tolist() == ["train", "val", "val/night"]


class Clouds(LightningModule):
    """A pair whose teacher and student see a list and a dictionary of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Linear(2, CLASSES)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        outputs = self.validation_step(batch, batch_idx)
        return {**outputs, "loss": outputs["prediction"].sum()}

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        logits = self.model(torch.stack([points.mean(0) for points in batch["points"]]))
        seen = {"inputs": (batch["points"],), "teacher_inputs": (batch["sensors"], batch["image"])}
        return {"prediction": logits, "teacher_prediction": logits.flip(0), "present": torch.ones(2).bool(), **seen}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.5)


@pytest.mark.parametrize("onnx", [False, True])
def test_inputs_that_are_no_tensors_end_no_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, onnx: bool) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("callbacks.parts.gallery.publish", lambda *_: drawn.append(_))
    monkeypatch.setattr("callbacks.divergence.publish", lambda *_: None)
    batch = {
        "points": [torch.rand(3, 2), torch.rand(5, 2)],
        "sensors": {"left": torch.rand(2, 4)},
        "image": torch.rand(2, 1, 4, 4),
        "target": torch.tensor([0, 1]),
    }
    data: DataLoader[Any] = DataLoader([batch], batch_size=None)  # type: ignore[arg-type]
    own = DivergenceTracker(), PredictionGallery(every_n_epochs=1), StudentExport(onnx=onnx)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(tmp_path, *own, max_epochs=1).fit(Clouds(), data, data)
    assert (tmp_path / "run" / "student.safetensors").is_file()
    assert len(drawn) == 1
    told = [str(warning.message) for warning in caught if "student.onnx" in str(warning.message)]
    reason = "the student's input 'points' is a list, and ONNX takes tensors only"
    assert told == ([f"there is no student.onnx, because {reason}"] if onnx else [])


def test_the_target_of_a_step_comes_before_that_of_its_batch() -> None:
    prediction, target = torch.zeros(2, 3), torch.tensor([1, 2])
    for batch in ({"target": 1 - target}, (prediction, 1 - target)):
        step = read_step({"prediction": prediction, "target": target}, batch)
        assert step is not None
        assert step.target is target


def test_a_teacher_with_other_classes_is_not_drawn(tmp_path: Path, samples: list[Tensor]) -> None:
    module = Foreign()
    module.teacher[-1] = nn.Linear(4, CLASSES + 1)
    with pytest.warns(UserWarning, match="PredictionGallery draws the student alone: its predictions have the shape"):
        trainer(tmp_path, PredictionGallery(samples=2)).test(module, loader(samples), verbose=False)
    assert (tmp_path / "run" / "figures" / "predictions_test.png").is_file()


def test_steps_may_return_one_input_a_list_of_features_and_a_list_of_presence() -> None:
    image, depth = torch.zeros(2, 1), torch.ones(2, 1)
    outputs = {
        "prediction": torch.zeros(2, 3),
        "inputs": image,
        "teacher_inputs": {"depth": depth},
        "features": [image, torch.zeros(2)],
        "teacher_features": {"out": depth, "scale": torch.zeros(())},
        "present": [True, False],
    }
    step = read_step(outputs, {})
    assert step is not None
    assert step.inputs == (image,)
    assert step.teacher_inputs == (depth,)
    assert list(step.features) == ["0"]
    assert list(step.teacher_features) == ["out"]
    assert len(step.with_teacher().prediction) == 1


@pytest.mark.parametrize("spatial", [(), (2, 2)])
def test_classes_without_a_name_or_a_colour_are_drawn_by_their_number(spatial: tuple[int, ...]) -> None:
    step = read_step({"prediction": torch.zeros(1, 3, *spatial), "target": torch.full((1, *spatial), 2)}, {})
    assert step is not None
    samples = PredictionGallery().keep(step, 1)
    if spatial:
        gallery_figure([views for views in samples if isinstance(views, dict)], ["cat"], [(0, 0, 0)])
    else:
        classification_figure([views for views in samples if not isinstance(views, dict)], ["cat"])


@pytest.mark.parametrize(
    ("shape", "fixed_dim", "dynamic"),
    [
        ((2, 1, 6, 8), None, {0, 2, 3}),
        ((2, 1, 6, 8), 2, {0}),  # only long inputs differ: a height of 24, but not of 6 + 16
        ((2, 6, 8), None, {0, 2}),
        ((2, 6, 8), 2, {0, 1}),  # sequences (N, T, C)
    ],
)
def test_an_export_is_compared_at_long_sizes_and_along_either_dim_of_a_sequence(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], fixed_dim: int | None, dynamic: set[int]
) -> None:
    exported: list[Any] = []

    def export(_: Any, samples: Any, dynamic_shapes: Any) -> bytes:
        exported.append(dynamic_shapes[0])
        return b""

    def difference(_: Any, inputs: tuple[Tensor, ...], model: bytes) -> float:
        differs = fixed_dim is not None and inputs[0].shape[fixed_dim] > shape[fixed_dim] + 16
        return math.nan if differs else 0.0

    monkeypatch.setattr(onnx_file, "LARGER", 16)
    monkeypatch.setattr(onnx_file, "_export", export)
    monkeypatch.setattr(onnx_file, "_difference", difference)
    onnx_file.onnx_model(Deployed(nn.Flatten(), ("x",)), (torch.rand(shape),), 1e-4)
    assert set(exported[-1]) == dynamic


def test_long_names_and_tall_pictures_leave_the_figures_readable() -> None:
    name = "a very long name of a class of the data set"
    step = read_step({"prediction": torch.zeros(1, 2), "target": torch.zeros(1).long()}, {})
    assert step is not None
    views = [views for views in PredictionGallery().keep(step, 1) if not isinstance(views, dict)]
    (axes,) = classification_figure(views, [name, name]).axes
    assert len(axes.get_title("left")) < len("student: ") + 26
    tall = {"target": torch.zeros(400, 20).long()}
    width, height = gallery_figure([tall]).get_size_inches()
    assert height < 2 * width
