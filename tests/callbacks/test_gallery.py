from __future__ import annotations

import math
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from matplotlib.colors import to_rgb
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from callbacks import PredictionGallery
from callbacks.parts.class_figures import RIGHT, WRONG
from callbacks.parts.figures import as_picture
from callbacks.parts.gallery import _shown
from callbacks.parts.step import Step
from callbacks.prediction_gallery import MARK_COLOUR, NO_CLASS, Views, _views, gallery_figure
from distill import Supervised
from tests.callbacks.pairs import read, trainer
from tests.losses.cases import softmax
from tests.toys import ToyData, make, make_batch, pair_arguments, prepared

ON_MAPS = "KD on maps"


def pictures(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "run" / "figures").glob("*.png"))


def fit(folder: Path, gallery: PredictionGallery, method: str = ON_MAPS, **options: Any) -> None:
    trainer(folder, gallery, **options).fit(make(method), ToyData(method=method))


def test_pictures_are_drawn_every_few_epochs_and_after_the_last(tmp_path: Path) -> None:
    fit(tmp_path, PredictionGallery(every_n_epochs=2), max_epochs=5)
    assert pictures(tmp_path) == [f"predictions_epoch_000{epoch}.png" for epoch in (1, 3, 4)]
    with Image.open(tmp_path / "run" / "figures" / "predictions_epoch_0001.png") as picture:
        assert picture.width > picture.height > 100


def test_the_last_epoch_is_drawn_where_a_fit_stops_early(tmp_path: Path) -> None:
    fit(tmp_path, PredictionGallery(every_n_epochs=2), max_epochs=50, max_steps=9)  # 3 steps an epoch
    assert pictures(tmp_path) == ["predictions_epoch_0001.png", "predictions_epoch_0002.png"]


def test_the_test_is_drawn_beside_the_fit(tmp_path: Path) -> None:
    trainer(tmp_path, PredictionGallery()).test(make(ON_MAPS), ToyData(method=ON_MAPS), verbose=False)
    assert pictures(tmp_path) == ["predictions_test.png"]


def test_tensorboard_has_one_series_of_pictures(tmp_path: Path) -> None:
    loggers = [CSVLogger(tmp_path, name="", version="run"), TensorBoardLogger(tmp_path, name="", version="board")]
    fit(tmp_path, PredictionGallery(every_n_epochs=1), max_epochs=2, logger=loggers)
    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    assert events.Tags()["images"] == ["predictions"]
    assert len(events.Images("predictions")) == 2


def test_no_model_runs_for_a_picture(tmp_path: Path) -> None:
    runs = []
    for callbacks in ([], [PredictionGallery(every_n_epochs=1)]):
        module = make(ON_MAPS)
        assert module.teacher is not None
        calls: list[int] = []
        module.teacher.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        trainer(tmp_path, *callbacks, max_epochs=1).fit(module, ToyData(method=ON_MAPS))
        runs.append(len(calls))
    assert runs[0] == runs[1] > 0


def views_of_batch() -> tuple[list[Views], dict[str, Any], dict[str, Tensor]]:
    module = prepared(make(ON_MAPS)).eval()
    batch = make_batch(3, method=ON_MAPS)
    batch["target"][0, 0] = 255
    outputs = module.evaluate(batch)
    return _views(read(outputs, batch), 3), outputs, batch


def test_views_are_what_both_models_saw_and_said() -> None:
    views, outputs, batch = views_of_batch()
    assert len(views) == 3
    assert list(views[0]) == ["x_a", "x_b", "target", "teacher", "student", "NCJSD"]
    for n, view in enumerate(views):
        assert torch.equal(view["x_a"], batch["x_a"][n])
        assert torch.equal(view["student"], outputs["prediction"][n].argmax(0))
        assert torch.equal(view["teacher"], outputs["teacher_prediction"][n].argmax(0))
    assert views[0]["target"][0].eq(NO_CLASS).all()
    assert torch.equal(views[0]["target"][1:], batch["target"][0, 1:])


def test_the_heat_map_is_ncjsd_at_every_pixel_and_empty_where_ignored() -> None:
    views, outputs, batch = views_of_batch()
    assert views[0]["NCJSD"][0].isnan().all()
    label = int(batch["target"][1, 2, 3])
    others = [c for c in range(4) if c != label]
    p, q = (softmax(outputs[key][1, others, 2, 3].double()) for key in ("prediction", "teacher_prediction"))
    m = (p + q) / 2
    expected = (p * (p / m).log() + q * (q / m).log()).sum() / 2
    assert views[1]["NCJSD"][2, 3].item() == pytest.approx(expected.item(), abs=1e-6)


def test_the_share_of_the_highest_divergences_is_marked_on_the_image() -> None:
    _, outputs, batch = views_of_batch()
    (views,) = PredictionGallery(left_out=0.25).keep(read(outputs, batch), 1)  # 8 of its 12 pixels have a label
    assert isinstance(views, dict)
    assert list(views) == ["x_a", "x_b", "target", "teacher", "student", "NCJSD", "left out"]
    marked = (views["left out"] == torch.tensor(MARK_COLOUR, dtype=torch.float64).view(3, 1, 1)).all(0)
    assert marked.sum() == 2
    assert not marked[0].any()
    assert views["NCJSD"][marked].min() > views["NCJSD"][1:][~marked[1:]].max()
    figure = gallery_figure([views])
    assert [axes.get_title() for axes in figure.axes[5:7]] == ["NCJSD", "left out"]


def test_a_share_outside_0_to_1_is_refused() -> None:
    with pytest.raises(ValueError, match=r"left_out must lie in \[0, 1\], got 25"):
        PredictionGallery(left_out=25)


def test_classes_are_painted_in_the_palette_and_ignored_pixels_black() -> None:
    palette = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    views = {
        "image": torch.arange(12.0).view(3, 2, 2),
        "depth": torch.tensor([[[0.0, 1.0], [2.0, 3.0]]]),
        "target": torch.tensor([[0, 1], [2, NO_CLASS]]),
        "NCJSD": torch.tensor([[0.0, math.log(2)], [0.1, math.nan]]),
    }
    figure = gallery_figure([views], ["road", "car", "sky"], palette)
    image, depth, target, heat = (axes.get_images()[0].get_array() for axes in figure.axes[:4])
    assert image is not None
    assert depth is not None
    assert target is not None
    assert heat is not None
    assert np.array_equal(target, [[(1, 0, 0), (0, 1, 0)], [(0, 0, 1), (0, 0, 0)]])
    assert image.shape == (2, 2, 3)
    assert image.min() == 0
    assert image.max() == 1
    assert depth.shape == (2, 2, 3)
    assert [axes.get_title() for axes in figure.axes[:4]] == ["image", "depth", "target", "NCJSD"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["road", "car", "sky"]
    assert to_rgb(figure.legends[0].get_patches()[1].get_facecolor()) == (0, 1, 0)


def test_a_network_without_a_teacher_is_drawn_as_well(tmp_path: Path) -> None:
    arguments = pair_arguments(ON_MAPS)
    module = Supervised(arguments["student"], arguments["task"], ["x_b"], arguments["optimizer"])
    trainer(tmp_path, PredictionGallery(samples=1), max_epochs=1).fit(module, ToyData(method=ON_MAPS))
    assert pictures(tmp_path) == ["predictions_epoch_0000.png"]
    batch = make_batch(2, method=ON_MAPS)
    assert list(_views(read(module.evaluate(batch), batch), 1)[0]) == ["x_b", "target", "prediction"]


@pytest.mark.parametrize("method", ["ResKD on depth"])
def test_predictions_without_classes_are_left_out_with_one_warning(tmp_path: Path, method: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(tmp_path, PredictionGallery(every_n_epochs=1), method, max_epochs=2)
    assert len([w for w in caught if "PredictionGallery draws nothing" in str(w.message)]) == 1
    assert pictures(tmp_path) == []


@pytest.mark.parametrize("arguments", [{"every_n_epochs": 0}, {"samples": 0}])
def test_arguments_below_1_are_refused(arguments: dict[str, int]) -> None:
    (name,) = arguments
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        PredictionGallery(**arguments)


def test_as_many_samples_as_asked_for_are_drawn_over_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def count(samples: list[Views], *_: Any) -> Any:
        drawn.append(len(samples))
        return gallery_figure(samples)

    monkeypatch.setattr("callbacks.prediction_gallery.gallery_figure", count)
    fit(tmp_path, PredictionGallery(every_n_epochs=1, samples=6), max_epochs=1)  # batches of 4
    assert drawn == [6]


def test_of_a_modality_that_is_no_colour_image_the_first_channel_is_drawn() -> None:
    points = torch.randn(5, 4, 6)
    assert np.array_equal(as_picture(points), as_picture(points[:1]))
    assert as_picture(points).shape == (4, 6, 3)


def shown(step: Step, data: Any, count: int = 4) -> Any:
    gallery = PredictionGallery()
    assert gallery.obstacle(step) is None
    stand_in: Any = SimpleNamespace(datamodule=data, lightning_module=None)
    return gallery.draw(gallery.keep(_shown(step, data), count), stand_in)


def test_a_classified_sample_has_its_inputs_and_the_probabilities_of_both_models() -> None:
    student, teacher = torch.tensor([[0.0, 2.0, 1.0]]).log_softmax(1), torch.tensor([[0.7, 0.1, 0.2]]).log()
    batch = {
        "image": torch.zeros(1, 3, 4, 4),
        "sound": torch.randn(1, 1, 3, 8),
        "ecg": torch.randn(1, 2, 9),
        "vector": torch.randn(1, 5),
        "video": torch.randn(1, 3, 4, 6, 6),
        "target": torch.tensor([0]),
    }
    inputs = tuple(batch[name] for name in ("image", "sound", "ecg", "vector", "video"))
    step = read({"prediction": student, "teacher_prediction": teacher, "inputs": inputs}, batch)
    data = SimpleNamespace(
        class_names=("cat", "dog", "owl"),
        normalization={"image": ((0.2, 0.4, 0.6), (0.5, 0.5, 0.5))},
        rows_upwards=("sound",),
    )
    figure = shown(step, data)
    image, sound, ecg, vector, video, bars = figure.axes
    assert [axes.get_title() for axes in figure.axes[:5]] == ["image", "sound", "ecg", "vector", "video"]
    np.testing.assert_allclose(image.get_images()[0].get_array()[0, 0], (0.2, 0.4, 0.6), atol=1e-6)
    assert np.array_equal(sound.get_images()[0].get_array(), as_picture(batch["sound"][0].flip(1)))
    assert [line.get_ydata().tolist() for line in ecg.lines] == batch["ecg"][0].tolist()
    assert [bar.get_height() for bar in vector.patches] == pytest.approx(batch["vector"][0].tolist())
    assert np.array_equal(video.get_images()[0].get_array(), as_picture(batch["video"][0, :, 2]))
    # the highest of both models first: cat 0.7, dog, owl
    odds = [math.exp(value) / (1 + math.e + math.e**2) for value in (0, 2, 1)]
    assert [bar.get_width() for bar in bars.patches] == pytest.approx([0.7, 0.1, 0.2, *odds], abs=1e-6)
    assert [label.get_text() for label in bars.get_yticklabels()] == ["cat", "dog", "owl"]
    assert [label.get_fontweight() for label in bars.get_yticklabels()] == ["bold", "normal", "normal"]
    titles = [(bars.title if where == "center" else getattr(bars, f"_{where}_title")) for where in ("left", "right")]
    assert [title.get_text() for title in titles] == ["teacher: cat (70%)", "student: dog (67%)"]
    assert [title.get_color() for title in titles] == [RIGHT, WRONG]


def test_the_true_class_is_drawn_though_no_model_finds_it_probable() -> None:
    logits = torch.arange(20.0).flip(0)[None]
    bars = shown(read({"prediction": logits}, {"target": torch.tensor([17])}), SimpleNamespace()).axes[-1]
    assert [label.get_text() for label in bars.get_yticklabels()] == ["0", "1", "2", "3", "17"]


def test_of_volumes_the_middle_slice_is_drawn() -> None:
    batch = {"scan": torch.randn(2, 1, 5, 4, 6), "target": torch.randint(3, (2, 5, 4, 6))}
    student = torch.randn(2, 3, 5, 4, 6)
    views = _views(read({"prediction": student, "inputs": (batch["scan"],)}, batch), 1)
    assert torch.equal(views[0]["scan"], batch["scan"][0, :, 2])
    assert torch.equal(views[0]["target"], batch["target"][0, 2])
    assert torch.equal(views[0]["prediction"], student[0, :, 2].argmax(0))
