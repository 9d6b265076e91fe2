from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from callbacks import DivergenceTracker
from callbacks.parts import comparison
from tests.callbacks.pairs import (
    Recorder,
    Replay,
    Samples,
    batches_of,
    cmd,
    divergences,
    imitation,
    loader,
    supervised,
    trainer,
)

NAMES = ["cmd", "cmd_target", "cmd_nontarget", "tcjsd", "ncjsd"]


def table(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "run" / "divergence.csv")


def row(folder: Path, epoch: int, stage: str) -> dict[str, float]:
    rows = table(folder).query("epoch == @epoch and stage == @stage")
    assert len(rows) == 1
    return {name: float(rows[name].iloc[0]) for name in NAMES}


def warnings_of(function: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function()
    return [str(warning.message) for warning in caught if "DivergenceTracker" in str(warning.message)]


@pytest.mark.parametrize("waiting", [1, 2**21], ids=["each batch at once", "whole epoch at once"])
def test_rows_hold_the_divergences_of_all_samples_of_an_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waiting: int
) -> None:
    monkeypatch.setattr(comparison, "BUFFER_NUMEL", waiting)
    recorder = Recorder()
    trainer(tmp_path, DivergenceTracker(), recorder, num_sanity_val_steps=0).fit(imitation(), loader(22), loader(13, 1))
    assert table(tmp_path).columns.tolist() == ["epoch", "stage", *NAMES, "input_cmd"]
    assert table(tmp_path)[["epoch", "stage"]].to_numpy().tolist() == [
        [0, "train"],
        [0, "val"],
        [1, "train"],
        [1, "val"],
    ]
    for epoch in (0, 1):
        for stage in ("train", "val"):
            expected = divergences(*recorder.epoch(epoch, stage))
            assert row(tmp_path, epoch, stage) == pytest.approx(expected, abs=1e-6)


def test_the_student_comes_closer_to_the_teacher_that_it_imitates(tmp_path: Path) -> None:
    module = imitation()
    module.hard_weight, module.inputs = 0.0, module.teacher_inputs
    trainer(tmp_path, DivergenceTracker(), max_epochs=8).fit(module, loader(64), loader(64))
    first, last = row(tmp_path, 0, "val"), row(tmp_path, 7, "val")
    assert all(last[name] < first[name] for name in NAMES)


def test_numbers_are_logged_for_checkpoints_and_loggers(tmp_path: Path) -> None:
    fit = trainer(tmp_path, DivergenceTracker())
    fit.fit(imitation(), loader(16), loader(8, 1))
    for stage in ("train", "val"):
        logged = {name: fit.callback_metrics[f"{stage}/{name}"].item() for name in NAMES}
        assert logged == pytest.approx(row(tmp_path, 1, stage), abs=1e-6)
    metrics = pd.read_csv(tmp_path / "run" / "metrics.csv")
    assert metrics["val/ncjsd"].dropna().tolist() == pytest.approx(
        [row(tmp_path, epoch, "val")["ncjsd"] for epoch in (0, 1)], abs=1e-6
    )


def test_the_sanity_check_does_not_count(tmp_path: Path) -> None:
    recorder = Recorder()
    fit = trainer(tmp_path, DivergenceTracker(), recorder, num_sanity_val_steps=2, max_epochs=1)
    fit.fit(imitation(), loader(16), loader(32, 1))
    assert row(tmp_path, 0, "val") == pytest.approx(divergences(*recorder.epoch(0, "val")), abs=1e-6)


def test_no_model_runs_again(tmp_path: Path) -> None:
    def calls(*callbacks: Any) -> dict[str, int]:
        module, counts = imitation(), {"teacher": 0, "student": 0}
        for name in counts:

            def count(*_: Any, name: str = name) -> None:
                counts[name] += 1

            getattr(module, name).register_forward_hook(count)
        run = trainer(tmp_path, *callbacks)
        run.fit(module, loader(16), loader(8))
        run.test(module, loader(8), verbose=False)
        return counts

    assert calls(DivergenceTracker()) == calls()


def test_pixels_that_are_ignored_do_not_count(tmp_path: Path) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 7, 3, 5, 4).unbind()
    target = torch.randint(3, (7, 5, 4))
    target[torch.rand(7, 5, 4) < 0.3] = 200
    target[3] = 200
    counted = target != 200
    data = batches_of(student=student, teacher=teacher, target=target)
    trainer(tmp_path, DivergenceTracker(), max_epochs=1).fit(Replay(ignore_index=200), data, data)
    expected = divergences(student.movedim(1, -1)[counted], teacher.movedim(1, -1)[counted], target[counted])
    assert row(tmp_path, 0, "train") == pytest.approx(expected, abs=1e-6)
    assert row(tmp_path, 0, "val") == pytest.approx(expected, abs=1e-6)


def test_large_images_are_compared_on_an_even_grid(tmp_path: Path) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 3, 12, 9).unbind()
    target = torch.randint(3, (3, 12, 9))
    data = batches_of(student=student, teacher=teacher, target=target)
    trainer(tmp_path, DivergenceTracker(max_positions=12), max_epochs=1).fit(Replay(), data)
    rows = [logits[..., 1::3, 1::3].movedim(1, -1).flatten(0, 2) for logits in (student, teacher)]
    assert row(tmp_path, 0, "train") == pytest.approx(
        divergences(rows[0], rows[1], target[..., 1::3, 1::3].flatten()), abs=1e-6
    )


def test_two_classes_leave_nothing_to_compare_among_the_others(tmp_path: Path) -> None:
    data = batches_of(student=torch.randn(6, 2), teacher=torch.randn(6, 2), target=torch.randint(2, (6,)))
    trainer(tmp_path, DivergenceTracker(), max_epochs=1).fit(Replay(), data)
    values = row(tmp_path, 0, "train")
    assert values["cmd_nontarget"] == values["ncjsd"] == 0
    assert values["cmd"] > 0


def test_logits_are_divided_by_the_temperature(tmp_path: Path) -> None:
    student, teacher, target = torch.randn(6, 3), torch.randn(6, 3), torch.randint(3, (6,))
    data = batches_of(student=student, teacher=teacher, target=target)
    trainer(tmp_path, DivergenceTracker(temperature=3.0), max_epochs=1).fit(Replay(), data)
    expected = divergences(student / 3, teacher / 3, target)
    assert row(tmp_path, 0, "train") == pytest.approx(expected, abs=1e-6)


def test_every_nth_training_batch_is_compared(tmp_path: Path) -> None:
    student, teacher, target = torch.randn(12, 3), torch.randn(12, 3), torch.randint(3, (12,))
    data = batches_of(student=student, teacher=teacher, target=target)  # four batches of three
    trainer(tmp_path, DivergenceTracker(every_n_batches=2), max_epochs=1).fit(Replay(), data, data)
    kept = torch.tensor([0, 1, 2, 6, 7, 8])
    expected = divergences(student[kept], teacher[kept], target[kept])
    assert row(tmp_path, 0, "train") == pytest.approx(expected, abs=1e-6)
    assert row(tmp_path, 0, "val") == pytest.approx(divergences(student, teacher, target), abs=1e-6)


def test_an_epoch_without_a_label_has_no_number(tmp_path: Path) -> None:
    data = batches_of(student=torch.randn(3, 3), teacher=torch.randn(3, 3), target=torch.full((3,), 255))
    trainer(tmp_path, DivergenceTracker(), max_epochs=1).fit(Replay(), data)
    assert table(tmp_path)[NAMES].isna().all(axis=None)


def test_a_resumed_fit_goes_on_below_the_rows_of_the_epochs_before(tmp_path: Path) -> None:
    def fit(folder: Path, max_epochs: int, ckpt_path: Path | None = None) -> None:
        checkpoints = ModelCheckpoint(folder / "checkpoints", "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
        run = trainer(folder, DivergenceTracker(), checkpoints, max_epochs=max_epochs, enable_checkpointing=True)
        run.fit(imitation(), loader(16), loader(8, 1), ckpt_path=ckpt_path, weights_only=True)

    fit(tmp_path / "whole", 4)
    fit(tmp_path / "killed", 3)
    assert table(tmp_path / "killed")["epoch"].max() == 2
    fit(tmp_path / "killed", 2, tmp_path / "killed" / "checkpoints" / "epoch=0.ckpt")
    assert table(tmp_path / "killed")["epoch"].tolist() == [0, 0, 1, 1]
    fit(tmp_path / "killed", 4, tmp_path / "killed" / "checkpoints" / "epoch=1.ckpt")
    pd.testing.assert_frame_equal(table(tmp_path / "killed"), table(tmp_path / "whole"))


def test_a_fit_resumed_from_its_best_checkpoint_keeps_that_epochs_validation(tmp_path: Path) -> None:
    def fit(max_epochs: int, ckpt_path: Path | None = None) -> None:
        best = ModelCheckpoint(tmp_path / "checkpoints", "best", monitor="val/hard", mode="max")
        run = trainer(tmp_path, DivergenceTracker(), best, max_epochs=max_epochs, enable_checkpointing=True)
        run.fit(imitation(), loader(16), loader(8, 1), ckpt_path=ckpt_path, weights_only=True)

    fit(2)
    before = row(tmp_path, 0, "val")
    fit(3, tmp_path / "checkpoints" / "best.ckpt")
    assert row(tmp_path, 0, "val") == before
    assert table(tmp_path).query("stage == 'val'")["epoch"].tolist() == [0, 1, 2]


def test_a_new_fit_with_the_same_tracker_starts_a_new_table(tmp_path: Path) -> None:
    tracker = DivergenceTracker()
    trainer(tmp_path, tracker, max_epochs=3).fit(imitation(), loader(16), loader(8))
    trainer(tmp_path, tracker, max_epochs=1).fit(imitation(), loader(16), loader(8))
    assert table(tmp_path)["epoch"].tolist() == [0, 0]
    assert table(tmp_path)["input_cmd"].notna().tolist() == [True, False]


def test_a_trainer_that_fits_on_goes_on_below_its_rows(tmp_path: Path) -> None:
    module, run = imitation(), trainer(tmp_path, DivergenceTracker(), max_epochs=1)
    run.fit(module, loader(16), loader(8))
    first = row(tmp_path, 0, "train")
    run.fit_loop.max_epochs = 2
    run.fit(module, loader(16), loader(8))
    assert table(tmp_path)["epoch"].tolist() == [0, 0, 1, 1]
    assert row(tmp_path, 0, "train") == first


def test_test_returns_its_divergences_and_leaves_the_table_of_fit(tmp_path: Path) -> None:
    recorder = Recorder()
    module, run = imitation(), trainer(tmp_path, DivergenceTracker(), recorder)
    run.fit(module, loader(16), loader(8))
    before = (tmp_path / "run" / "divergence.csv").read_bytes()
    (scores,) = run.test(module, loader(22, 2), verbose=False)
    (validated,) = run.validate(module, loader(22, 2), verbose=False)
    (seen,) = [recorder.epoch(*key) for key in recorder.seen if key[1] == "test"]
    expected = divergences(*seen)
    assert {name: scores[f"test/{name}"] for name in NAMES} == pytest.approx(expected, abs=1e-6)
    assert {name: validated[f"val/{name}"] for name in NAMES} == pytest.approx(expected, abs=1e-6)
    assert (tmp_path / "run" / "divergence.csv").read_bytes() == before


def test_inputs_with_equally_many_values_are_compared_in_the_first_epoch(tmp_path: Path) -> None:
    fit = trainer(tmp_path, DivergenceTracker())
    fit.fit(imitation(), loader(22), loader(8))
    modalities = Samples(22).modalities
    values = table(tmp_path)["input_cmd"]
    assert values[0] == pytest.approx(cmd(modalities["x_b"].double(), modalities["x_a"].double()), abs=1e-6)
    assert values[1:].isna().all()
    metrics = pd.read_csv(tmp_path / "run" / "metrics.csv")["train/input_cmd"].dropna()
    assert metrics.tolist() == pytest.approx([values[0]], abs=1e-5)


def replayed_input_cmd(folder: Path, student: Tensor, teacher: Tensor, **options: Any) -> float:
    logits = torch.randn(2, len(student), 3)
    data = batches_of(
        student=logits[0], teacher=logits[1], target=torch.randint(3, (len(student),)), x_a=student, x_b=teacher
    )
    trainer(folder, DivergenceTracker(**options), max_epochs=1).fit(Replay(), data)
    return float(table(folder)["input_cmd"][0])


def test_images_with_different_channels_are_compared_by_the_mean_over_channels(tmp_path: Path) -> None:
    image, depth = torch.rand(5, 3, 4, 6), torch.rand(5, 1, 4, 6)
    value = replayed_input_cmd(tmp_path, image, depth)
    assert value == pytest.approx(cmd(image.double().mean(1).flatten(1), depth.double().flatten(1)), abs=1e-6)


def test_large_inputs_are_compared_on_an_even_grid(tmp_path: Path) -> None:
    a, b = torch.rand(2, 5, 2, 8, 8).unbind()
    value = replayed_input_cmd(tmp_path, a, b, max_positions=16)
    thinned_a, thinned_b = (images[..., 1::2, 1::2].double().flatten(1) for images in (a, b))
    assert value == pytest.approx(cmd(thinned_a, thinned_b), abs=1e-6)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        (torch.rand(5, 3, 4, 4), torch.rand(5, 7)),
        (torch.rand(5, 3, 4, 4), torch.rand(5, 3, 8, 8)),
        (torch.rand(5, 7), torch.rand(5, 6)),
        (torch.rand(5), torch.rand(5, 2)),
    ],
    ids=["image and vector", "images of two sizes", "vectors", "number and vector"],
)
def test_inputs_that_cannot_be_compared_are_left_out_and_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, student: Tensor, teacher: Tensor
) -> None:
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        value = replayed_input_cmd(tmp_path, student, teacher)
    assert value != value
    told = [message for message in caplog.messages if "train/input_cmd" in message]
    assert len(told) == 1
    assert str(tuple(student.shape[1:])) in told[0]
    assert row(tmp_path, 0, "train")["cmd"] > 0


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_without_a_teacher_it_is_silent_after_one_warning(tmp_path: Path) -> None:
    run = trainer(tmp_path, DivergenceTracker())
    module = supervised()

    def fit_and_test() -> None:
        run.fit(module, loader(16), loader(8))
        run.test(module, loader(8), verbose=False)

    (message,) = warnings_of(fit_and_test)
    assert "no teacher" in message
    assert not [name for name in run.callback_metrics if name.endswith("cmd")]
    assert not (tmp_path / "run" / "divergence.csv").exists()
    assert not (tmp_path / "run" / "figures").exists()


@pytest.mark.parametrize(
    ("student", "target", "reason"),
    [
        (torch.rand(6, 1, 4, 4), torch.rand(6, 1, 4, 4), "not logits"),
        (torch.rand(6, 3, 2, 2), torch.randint(3, (6, 4, 4)), "do not belong together"),
    ],
    ids=["depth", "logits smaller than the target"],
)
def test_predictions_that_are_no_logits_of_the_target_are_left_alone_after_one_warning(
    tmp_path: Path, student: Tensor, target: Tensor, reason: str
) -> None:
    data = batches_of(student=student, teacher=student, target=target)
    (message,) = warnings_of(lambda: trainer(tmp_path, DivergenceTracker()).fit(Replay(), data, data))
    assert reason in message
    assert not (tmp_path / "run" / "divergence.csv").exists()


def test_a_test_without_the_teacher_logs_no_divergence(tmp_path: Path) -> None:
    module = imitation()
    module.frozen_teacher = None
    run = trainer(tmp_path, DivergenceTracker())
    (message,) = warnings_of(lambda: run.test(module, loader(8), verbose=False))
    assert "no teacher" in message
    assert "test/cmd" not in run.callback_metrics
    assert "test/accuracy" in run.callback_metrics


def test_the_curves_are_a_picture_in_the_folder_and_in_tensorboard(tmp_path: Path) -> None:
    loggers = [CSVLogger(tmp_path, name="", version="run"), TensorBoardLogger(tmp_path, name="", version="run")]
    trainer(tmp_path, DivergenceTracker(), logger=loggers).fit(imitation(), loader(16), loader(8))
    with Image.open(tmp_path / "run" / "figures" / "divergence.png") as picture:
        picture.load()
        assert picture.format == "PNG"
        assert picture.width > 1200 > picture.height > 400
        colours = picture.convert("RGB").getcolors(maxcolors=2**24)
    assert colours is not None
    drawn = {colour for _, colour in colours}
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0x33, 0x33, 0x33)} <= drawn
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    assert events.Tags()["images"] == ["divergence"]


@pytest.mark.parametrize("options", [{"fast_dev_run": True, "logger": None}, {"max_epochs": 1, "logger": False}])
def test_a_trial_run_writes_no_file_into_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "root").mkdir()
    run = trainer(tmp_path, DivergenceTracker(), default_root_dir=tmp_path / "root", **options)
    run.fit(imitation(), loader(16), loader(8))
    assert run.callback_metrics["val/cmd"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"moments": 0}, "moments must be at least 1, got 0"),
        ({"every_n_batches": 0}, "every_n_batches must be at least 1, got 0"),
        ({"max_positions": 0}, "max_positions must be at least 1, got 0"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DivergenceTracker(**options)


@pytest.mark.gpu
def test_a_gpu_measures_what_the_cpu_measures(tmp_path: Path) -> None:
    for device in ("cpu", "gpu"):
        run = trainer(tmp_path / device, DivergenceTracker(), accelerator=device)
        run.fit(imitation(), loader(22), loader(13, 1))
    for epoch in (0, 1):
        for stage in ("train", "val"):
            assert row(tmp_path / "gpu", epoch, stage) == pytest.approx(row(tmp_path / "cpu", epoch, stage), abs=1e-3)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callbacks.divergence.publish", lambda *_: None)


class Partial(Replay):
    """Has no teacher's modality for some samples."""

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        return super().validation_step(batch, batch_idx) | {"present": batch["present"]}


@pytest.mark.usefixtures("undrawn")
def test_batches_without_any_pair_are_left_out_and_a_stage_without_any_has_no_row(tmp_path: Path) -> None:
    student, teacher = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0)).unbind()
    target = torch.tensor([0, 1, 2, 3, 0, 1])
    some, none = (torch.tensor([value] * 3 + [False] * 3) for value in (True, False))  # batches of 3
    given = {"student": student, "teacher": teacher, "target": target, "x_a": student, "x_b": teacher}
    run = trainer(tmp_path, DivergenceTracker(), max_epochs=1)
    run.fit(Partial(), batches_of(**given, present=some), batches_of(**given, present=none))
    assert table(tmp_path)["stage"].tolist() == ["train"]
    assert row(tmp_path, 0, "train") == pytest.approx(divergences(student[:3], teacher[:3], target[:3]), abs=1e-6)
    assert not any(name.startswith("val/") for name in run.callback_metrics)


@pytest.mark.usefixtures("undrawn")
def test_soft_labels_count_as_the_class_of_the_highest_share(tmp_path: Path) -> None:
    student, teacher = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0)).unbind()
    target = torch.tensor([0, 1, 2, 3])
    soft = 0.6 * torch.eye(4) + 0.1
    run = trainer(tmp_path, DivergenceTracker(), max_epochs=1)
    run.fit(Replay(), batches_of(student=student, teacher=teacher, target=soft))
    assert row(tmp_path, 0, "train") == pytest.approx(divergences(student, teacher, target), abs=1e-6)


@pytest.mark.usefixtures("undrawn")
def test_the_table_has_the_rows_of_validation_if_training_cannot_be_compared(tmp_path: Path) -> None:
    student, teacher = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0)).unbind()
    labels = {"train": torch.rand(4, 4), "val": torch.tensor([0, 1, 2, 3])}
    of = {stage: batches_of(student=student, teacher=teacher, target=target) for stage, target in labels.items()}
    trainer(tmp_path, DivergenceTracker(), max_epochs=1).fit(Replay(), of["train"], of["val"])
    assert table(tmp_path)["stage"].tolist() == ["val"]


def test_targets_that_are_no_class_do_not_count() -> None:
    student, teacher = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0)).unbind()
    target = torch.tensor([0, -100, 4, 3, 255])
    divergence = comparison.OutputDivergences(1.0, 5, None, torch.device("cpu"))
    divergence.add(student, teacher, target, 255)
    counted = [0, 3]
    expected = divergences(student[counted], teacher[counted], target[counted])
    assert divergence.compute() == pytest.approx(expected, abs=1e-6)
