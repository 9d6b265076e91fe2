from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from callbacks import TeacherSimilarity
from tests.callbacks.depths import HEIGHT, MAX_DEPTH, WIDTH, ReplayDepth, ReplayWithoutTeacher, depths
from tests.callbacks.pairs import batches_of, trainer
from tests.processes import run_in_processes

NAMES = ["abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog", "delta1", "delta2", "delta3"]


def pairs(count: int = 5, seed: int = 0) -> dict[str, Tensor]:
    """Depths where the teacher answers in some pixels only, and beyond the range in one."""
    tensors = depths(count, seed)
    tensors["teacher"][torch.rand(count, 1, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed)) < 0.3] = 0
    tensors["teacher"][0, 0, 5, 5] = 9.5
    tensors["student"][1, 0, 6, 6] = 30.0
    return tensors


def table_2(tensors: dict[str, Tensor], top: int) -> dict[str, float]:
    """AbsRel, RMSE and delta_1 of the student against the teacher, image by image."""
    rows = []
    for student, teacher in zip(tensors["student"].double(), tensors["teacher"].double(), strict=True):
        s, t = student[0, top:].numpy(), teacher[0, top:].numpy()
        s, t = np.clip(s, 1e-3, MAX_DEPTH)[(t > 0) & (t < MAX_DEPTH)], t[(t > 0) & (t < MAX_DEPTH)]
        rows.append((np.mean(abs(s - t) / t), np.sqrt(np.mean((s - t) ** 2)), np.mean(np.maximum(s / t, t / s) < 1.25)))
    return dict(zip(("abs_rel", "rmse", "delta1"), np.mean(rows, 0).tolist(), strict=True))


def logged(scores: Any, stage: str) -> dict[str, float]:
    return {name: float(scores[f"{stage}/similarity_{name}"]) for name in ("abs_rel", "rmse", "delta1")}


def test_the_students_depth_is_scored_against_the_teachers(tmp_path: Path) -> None:
    tensors = pairs()
    similarity = TeacherSimilarity(max_depth=MAX_DEPTH, ignore_top_rows=3)
    (scores,) = trainer(tmp_path, similarity).test(ReplayDepth(), batches_of(**tensors), verbose=False)
    assert sorted(scores) == sorted(f"test/similarity_{name}" for name in NAMES)
    assert logged(scores, "test") == pytest.approx(table_2(tensors, top=3), abs=1e-6)


def test_every_validation_starts_from_nothing_and_the_sanity_check_does_not_count(tmp_path: Path) -> None:
    first, second = pairs(), pairs(seed=1)
    run = trainer(tmp_path, TeacherSimilarity(max_depth=MAX_DEPTH), num_sanity_val_steps=1)
    run.fit(ReplayDepth(), batches_of(**first), batches_of(**first))
    table = pd.read_csv(tmp_path / "run" / "metrics.csv")
    values = table["val/similarity_abs_rel"].dropna().tolist()
    assert values == pytest.approx([table_2(first, top=0)["abs_rel"]] * 2, abs=1e-6)
    assert not [name for name in table if name.startswith("train/similarity")]
    (scores,) = run.validate(ReplayDepth(), batches_of(**second), verbose=False)
    assert logged(scores, "val") == pytest.approx(table_2(second, top=0), abs=1e-6)


def test_without_a_teacher_nothing_is_logged(tmp_path: Path) -> None:
    run = trainer(tmp_path, TeacherSimilarity())
    run.fit(ReplayWithoutTeacher(), batches_of(**depths()), batches_of(**depths()))
    assert not [name for name in run.callback_metrics if "similarity" in name]


def test_predictions_that_are_no_depth_are_left_alone_after_one_warning(tmp_path: Path) -> None:
    tensors = depths() | {"student": torch.randn(5, 4), "teacher": torch.randn(5, 4)}
    run = trainer(tmp_path, TeacherSimilarity())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run.fit(ReplayDepth(), batches_of(**tensors), batches_of(**tensors))
    (message,) = [str(w.message) for w in caught if "TeacherSimilarity" in str(w.message)]
    assert "(3, 4)" in message
    assert not [name for name in run.callback_metrics if "similarity" in name]


def test_a_crop_that_there_is_not_is_refused_before_the_run() -> None:
    with pytest.raises(ValueError, match="crop"):
        TeacherSimilarity(crop="left")  # type: ignore[arg-type]


def validate_half(rank: int, world_size: int, folder: str) -> dict[str, float]:
    environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, value in {**environment, "TORCHELASTIC_RUN_ID": "tests", "GROUP_RANK": 0}.items():
            monkeypatch.setenv(name, str(value))
        similarity = TeacherSimilarity(max_depth=MAX_DEPTH)
        run = trainer(Path(folder), similarity, strategy="ddp", devices=2)
        (scores,) = run.validate(ReplayDepth(), batches_of(**pairs(6)), verbose=False)
    return logged(scores, "val")


@pytest.mark.ddp
def test_two_processes_log_the_scores_of_all_samples(tmp_path: Path) -> None:
    first, second = run_in_processes(validate_half, 2, str(tmp_path))
    assert first == second == pytest.approx(table_2(pairs(6), top=0), abs=1e-6)
