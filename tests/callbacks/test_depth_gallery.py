from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from callbacks import DepthGallery
from callbacks.parts.depth_figures import DEPTH_COLOURS, ERROR_COLOURS, DepthViews, depth_figure
from distill.study.depth_comparison import depth_comparison
from tests.callbacks.depths import BINS, HEIGHT, MAX_DEPTH, WIDTH, ReplayDepth, ReplayWithoutTeacher, depths
from tests.callbacks.pairs import batches_of, read, trainer
from tests.toys import MAX_DEPTH as MAX_TOY_DEPTH
from tests.toys import ToyData, make

GREY = (0xB8 / 255,) * 3


def gallery(**arguments: Any) -> DepthGallery:
    return DepthGallery(**{"max_depth": MAX_DEPTH, **arguments})


def step(**changes: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    batch = depths(3) | changes
    return ReplayDepth().validation_step(batch, 0), batch


def pictures(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "run" / "figures").iterdir())


def picture(figure: Figure, title: str, row: int = 0) -> NDArray[Any]:
    parts = [axes for part in figure.subfigs for axes in part.axes]
    titles = [axes.get_title() for axes in parts]
    columns = sum(f"|{kind} " in title for title in titles for kind in ("student", "prediction"))
    assert columns == 1
    width = next(index for index, text in enumerate(titles) if text.startswith("|")) + 1
    array = parts[titles.index(title) + row * width].get_images()[0].get_array()
    assert array is not None
    return np.asarray(array)


def views(target: Tensor, student: Tensor, teacher: Tensor | None = None) -> DepthViews:
    image = torch.rand(3, *target.shape)
    return DepthViews(image=image, modalities={"image": image}, target=target, student=student, teacher=teacher)


def test_pictures_are_drawn_every_few_epochs_and_after_the_last(tmp_path: Path) -> None:
    data = batches_of(**depths())
    trainer(tmp_path, gallery(every_n_epochs=2, samples=4), max_epochs=3).fit(ReplayDepth(), data, data)
    assert pictures(tmp_path) == ["depth_epoch_0001.png", "depth_epoch_0002.png"]
    with Image.open(tmp_path / "run" / "figures" / "depth_epoch_0001.png") as image:
        assert image.width > 100 < image.height


def test_the_test_leaves_a_picture_and_the_depths_of_its_first_samples(tmp_path: Path) -> None:
    tensors = depths()
    trainer(tmp_path, gallery(samples=4)).test(ReplayDepth(), batches_of(**tensors), verbose=False)  # batches of 3
    assert pictures(tmp_path) == ["depth_test.npz", "depth_test.png"]
    with np.load(tmp_path / "run" / "figures" / "depth_test.npz") as arrays:
        assert sorted(arrays) == ["image", "student", "target", "teacher"]
        for name in ("student", "teacher"):
            assert arrays[name].dtype == np.float32
            assert np.array_equal(arrays[name], tensors[name][:4, 0].numpy())
        assert np.array_equal(arrays["target"], torch.where(tensors["target"] < MAX_DEPTH, tensors["target"], 0)[:4, 0])
        assert arrays["image"].dtype == np.uint8
        assert arrays["image"].shape == (4, HEIGHT, WIDTH, 3)
        brightest = tensors["image"][0].flatten().argmax()
        assert np.moveaxis(arrays["image"][0], -1, 0).ravel()[brightest] == 255


def test_a_network_without_a_teacher_is_drawn_without_bins(tmp_path: Path) -> None:
    module, tensors = ReplayWithoutTeacher(), depths()
    trainer(tmp_path, gallery()).test(module, batches_of(**tensors), verbose=False)
    with np.load(tmp_path / "run" / "figures" / "depth_test.npz") as arrays:
        assert sorted(arrays) == ["image", "student", "target"]
    outputs = module.validation_step(tensors, 0)
    figure = gallery().draw(gallery().keep(read(outputs, tensors), 1), None)
    titles = [axes.get_title() for axes in figure.subfigs[0].axes]
    assert titles[:4] == ["image", "target", "prediction", "|prediction − target| / target"]  # noqa: RUF001
    assert len(figure.subfigs) == 1


def test_predictions_that_are_no_depth_are_left_out_with_one_warning(tmp_path: Path) -> None:
    labels = depths() | {"target": torch.randint(4, (5, HEIGHT, WIDTH))}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(tmp_path, gallery()).test(ReplayDepth(), batches_of(**labels), verbose=False)
    assert len([w for w in caught if "DepthGallery draws nothing" in str(w.message)]) == 1
    assert not (tmp_path / "run" / "figures").exists()


def test_the_students_bins_are_its_probabilities_along_the_row() -> None:
    outputs, batch = step()
    kept = gallery(row=0.6).keep(read(outputs, batch), 2)
    assert len(kept) == 2
    for n, sample in enumerate(kept):
        odds = batch["bins"][n, :, 4].double().exp()  # row 4 of 8 holds the height 0.6
        assert sample.student_bins is not None
        assert torch.allclose(sample.student_bins.double(), odds / odds.sum(0), atol=1e-6)


def test_the_teachers_bins_gather_around_its_depth_along_the_row() -> None:
    outputs, batch = step()
    (sample,) = gallery(row=0.6, sigma=0.1, normalization="sum").keep(read(outputs, batch), 1)
    assert sample.teacher_bins is not None
    assert sample.teacher_bins.shape == (BINS, WIDTH)
    holding = (batch["teacher"][0, 0, 4] / 0.5).long()
    assert torch.equal(sample.teacher_bins.argmax(0), holding)
    assert sample.teacher_bins.amax(0).min() > 0.49  # a depth is shared by two bins at most


def test_bins_may_be_coarser_than_the_picture() -> None:
    outputs, batch = step(bins=torch.randn(3, BINS, HEIGHT // 2, WIDTH // 2))
    (sample,) = gallery(row=0.6).keep(read(outputs, batch), 1)
    assert sample.student_bins is not None
    assert sample.teacher_bins is not None
    assert torch.allclose(sample.student_bins, batch["bins"][0, :, 2].softmax(0))
    figure = gallery(row=0.6).draw([sample], None)
    teacher, student = figure.subfigs[1].axes[:2]
    for axes in (teacher, student):
        assert axes.get_images()[0].get_extent() == pytest.approx([-0.5, WIDTH - 0.5, 1e-3, MAX_DEPTH])


def test_of_the_bins_only_the_row_is_kept() -> None:
    outputs, batch = step()
    for sample in gallery().keep(read(outputs, batch), 2):
        for bins in (sample.student_bins, sample.teacher_bins):
            assert bins is not None
            assert bins.untyped_storage().nbytes() <= 2 * BINS * WIDTH * 4


def test_the_row_is_marked_in_the_first_sample_and_stands_below_with_its_target() -> None:
    outputs, batch = step()
    figure = gallery(row=0.6).draw(gallery(row=0.6).keep(read(outputs, batch), 2), None)
    shown = figure.subfigs[0].axes[:10]
    marked = [{float(y) for line in axes.lines for y in np.asarray(line.get_ydata())} for axes in shown]
    assert marked == [{4}] * 5 + [set()] * 5
    row = batch["target"][0, 0, 4]
    for axes in figure.subfigs[1].axes[:2]:
        assert np.array_equal(axes.lines[0].get_ydata(), row[row > 0])
        assert np.array_equal(axes.lines[0].get_xdata(), row.nonzero()[:, 0])


def test_a_student_of_tiekd_is_drawn_with_its_bins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[DepthViews] = []

    def keep(samples: Sequence[DepthViews], *options: Any) -> Figure:
        drawn.extend(samples)
        return depth_figure(samples, *options)

    monkeypatch.setattr("callbacks.depth_gallery.depth_figure", keep)
    method = "TIEKD on depth"
    own = DepthGallery(samples=1, max_depth=MAX_TOY_DEPTH, layer="head")
    trainer(tmp_path, own, max_epochs=1).fit(make(method), ToyData(method=method))
    assert pictures(tmp_path) == ["depth_epoch_0000.png"]
    (sample,) = drawn
    assert sample.student_bins is not None
    assert torch.allclose(sample.student_bins.sum(0), torch.ones(()))


@pytest.mark.parametrize(("row", "layer"), [(None, "bins"), (0.6, "other")])
def test_without_a_row_or_bins_there_is_the_gallery_alone(row: float | None, layer: str) -> None:
    outputs, batch = step()
    own = gallery(row=row, layer=layer)
    figure = own.draw(own.keep(read(outputs, batch), 1), None)
    assert len(figure.subfigs) == 1
    assert not any(axes.lines for axes in figure.subfigs[0].axes[:5])


def test_what_a_stored_teacher_sees_is_drawn_once() -> None:
    outputs, batch = step()
    batch["teacher_prediction"] = batch.pop("teacher")
    outputs["teacher_inputs"] = (batch["teacher_prediction"],)
    (sample,) = gallery().keep(read(outputs, batch), 1)
    assert list(sample.modalities) == ["image"]
    assert sample.teacher is not None


def test_near_is_bright_far_is_dark_and_nothing_is_grey() -> None:
    target = torch.tensor([[1.0, 2.0, 4.0, 8.0, 16.0, 0.0]])
    drawn = picture(depth_figure([views(target, target)]), "target")[0]
    brightness = drawn[:5].sum(-1)
    assert (np.diff(brightness) < 0).all()
    assert drawn[5] == pytest.approx(GREY)
    # equal ratios of depth are equal steps along the colours
    assert drawn[2] == pytest.approx(DEPTH_COLOURS(0.5)[:3], abs=0.02)


def test_the_error_is_relative_to_the_target_where_there_is_one() -> None:
    target, student = torch.tensor([[10.0, 10.0, 10.0, 0.0]]), torch.tensor([[10.0, 11.25, 5.0, 3.0]])
    figure = depth_figure([views(target, student, teacher=student)])
    drawn = picture(figure, "|student − target| / target")[0]  # noqa: RUF001
    assert drawn[0] == pytest.approx(ERROR_COLOURS(0.0)[:3])
    assert drawn[1] == pytest.approx(ERROR_COLOURS(0.5)[:3], abs=0.02)  # half of the 25 % at which the colours end
    assert drawn[2] == pytest.approx(ERROR_COLOURS(1.0)[:3])
    assert drawn[3] == pytest.approx(GREY)


def test_the_error_is_relative_to_the_teacher_where_no_sample_has_a_target() -> None:
    none, teacher = torch.zeros(1, 2), torch.tensor([[4.0, 0.0]])
    figure = depth_figure([views(none, torch.tensor([[4.5, 1.0]]), teacher)] * 2)
    drawn = picture(figure, "|student − teacher| / teacher", row=1)[0]  # noqa: RUF001
    assert drawn[0] == pytest.approx(ERROR_COLOURS(0.5)[:3], abs=0.02)
    assert drawn[1] == pytest.approx(GREY)


def test_the_points_of_a_lidar_are_drawn_larger_and_the_nearer_one_in_front() -> None:
    target = torch.zeros(9, 960)
    target[4, 10], target[4, 13], target[4, 500] = 2.0, 20.0, 5.0
    drawn = picture(depth_figure([views(target, torch.ones(9, 960))]), "target")
    point = drawn[4, 10]
    assert np.array_equal(drawn[2:7, 8:13], np.broadcast_to(point, (5, 5, 3)))
    assert drawn[1, 10] == pytest.approx(GREY)
    assert np.array_equal(drawn[4, 14], drawn[4, 13])
    assert not np.array_equal(drawn[4, 13], point)
    dense = torch.full((9, 960), 5.0)
    dense[:, 100:500] = 0
    drawn = picture(depth_figure([views(dense, torch.ones(9, 960))]), "target")
    assert drawn[4, 100] == pytest.approx(GREY)


def write(path: Path, student: Tensor, teacher: Tensor | None = None, target: Tensor | None = None) -> Path:
    if target is None:
        target = torch.linspace(1, 2, student.numel()).view_as(student)
    arrays = {"image": np.full((*student.shape, 3), 7, np.uint8), "target": target, "student": student}
    np.savez_compressed(path, **arrays | ({} if teacher is None else {"teacher": teacher}))  # type: ignore[arg-type]
    return path


def labels(figure: Figure, scenes: int) -> list[str]:
    return [axes.get_ylabel() for axes in figure.axes[:-1:scenes]]


def test_a_comparison_has_a_column_a_scene_and_a_row_a_student(tmp_path: Path) -> None:
    teacher, a, b = 1 + torch.rand(3, 2, 4, 6)
    files = {"Res-KD": write(tmp_path / "a.npz", a, teacher), "TIE-KD": write(tmp_path / "b.npz", b, teacher + 1e-3)}
    figure = depth_comparison(files)
    assert labels(figure, 2) == ["image", "target", "teacher", "Res-KD", "TIE-KD"]
    grid = [np.asarray(axes.get_images()[0].get_array()) for axes in figure.axes[:-1]]
    assert len(grid) == 10
    assert (grid[0] == 7).all()
    second_of_tiekd = grid[9].sum(-1).ravel()
    assert np.corrcoef(second_of_tiekd, -b[1].flatten().log())[0, 1] > 0.9
    assert figure.axes[-1].get_xlabel() == "depth (m)"


def test_a_teacher_that_is_compared_as_well_has_one_row(tmp_path: Path) -> None:
    teacher, student = 1 + torch.rand(2, 1, 4, 6)
    files = {"the teacher": write(tmp_path / "t.npz", teacher), "KD": write(tmp_path / "s.npz", student, teacher)}
    assert labels(depth_comparison(files), 1) == ["image", "target", "the teacher", "KD"]


def test_different_teachers_are_told_apart_and_an_absent_target_is_left_out(tmp_path: Path) -> None:
    teachers, none = 1 + torch.rand(2, 1, 4, 6), torch.zeros(1, 4, 6)
    named = zip("ab", teachers, strict=True)
    files = {name: write(tmp_path / f"{name}.npz", 2 + teacher, teacher, none) for name, teacher in named}
    assert labels(depth_comparison(files), 1) == ["image", "teacher of a", "teacher of b", "a", "b"]


def test_files_of_different_scenes_are_refused(tmp_path: Path) -> None:
    files = {"a": write(tmp_path / "a.npz", torch.ones(1, 4, 6)), "b": write(tmp_path / "b.npz", torch.ones(2, 4, 6))}
    with pytest.raises(ValueError, match=r"b\.npz holds other scenes than .*a\.npz"):
        depth_comparison(files)


def test_a_comparison_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to compare"):
        depth_comparison({})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"min_depth": 9.0}, "min_depth must be below max_depth, got 9.0 and 8.0"),
        ({"sigma": 0.0}, "sigma must be positive, got 0.0"),
        ({"row": 1.0}, "row must be at least 0 and below 1, or None, got 1.0"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gallery(**arguments)
