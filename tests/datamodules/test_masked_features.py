from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules import MNISTM, DrivingScenes, MaskedFeatures, PairedDataModule, SklearnPair
from datamodules.masked_features import MaskMode, feature_masks
from distill import DistillationModule
from distill.cli import main

RANKED = np.arange(25, dtype=np.float32)[::-1] / 24


def write(folder: Path, **salience: Any) -> Path:
    np.savez(folder / "salience.npz", **(salience or {"x_a": RANKED}))
    return folder / "salience.npz"


def batches(data: PairedDataModule) -> list[dict[str, Tensor]]:
    data.setup()
    torch.manual_seed(0)
    loaders = [data.train_dataloader(), data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()]
    return [next(iter(loader)) for loader in loaders]


@pytest.mark.parametrize("mode", ["true", "false", "random"])
def test_a_share_of_the_features_is_filled_in_all_splits_and_nothing_else_changes(mode: Any, tmp_path: Path) -> None:
    plain = batches(SklearnPair())
    masked = batches(MaskedFeatures(SklearnPair(), write(tmp_path), ratio=0.4, mode=mode, fill=0.5))
    out = [{n for n in range(25) if batch["x_a"][:, n].eq(0.5).all()} for batch in masked]
    assert all(features == out[0] for features in out)
    assert len(out[0]) == 10
    if mode != "random":
        assert out[0] == set(range(10) if mode == "true" else range(15, 25))
    kept = sorted(set(range(25)) - out[0])
    for before, after in zip(plain, masked, strict=True):
        assert torch.equal(before["x_a"][:, kept], after["x_a"][:, kept])
        assert all(torch.equal(before[name], after[name]) for name in ("x_b", "target", "index"))


def test_pixels_are_masked_in_all_their_channels(tmp_path: Path) -> None:
    salience = np.zeros((28, 28))
    salience[3, 4] = 1
    path = write(tmp_path, image_b=salience)
    data = MaskedFeatures(MNISTM(val_size=20, test_size=20), path, ratio=1 / 784, fill=7)
    for batch in batches(data):
        where = batch["image_b"].eq(7).all(0)
        assert where[:, 3, 4].all()
        assert where.sum() == 3


def test_augmented_frames_are_masked_after_augmentation(tmp_path: Path) -> None:
    scenes = DrivingScenes(n_train=2, n_val=1, n_test=1, size=(32, 64), geometry=["depth"], batch_size=2)
    salience = np.zeros((32, 64))
    salience[:, :16] = 1
    data = MaskedFeatures(scenes, write(tmp_path, depth=salience), ratio=0.25)
    for batch in batches(data):
        assert batch["depth"][..., :16].eq(0).all()
        assert not batch["depth"][..., 16:].eq(0).all()
    assert data.class_names == scenes.class_names


def test_all_modalities_of_the_file_are_ranked_together_unless_some_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, x_a=np.full(25, 0.2), x_b=np.linspace(0.3, 1, 25))
    both = MaskedFeatures(SklearnPair(), path, ratio=0.5)
    one = MaskedFeatures(SklearnPair(), path, ratio=0.4, modalities=["x_a"])
    for data, expected in ((both, {"x_a": 0, "x_b": 25}), (one, {"x_a": 10})):
        data.setup()
        assert {name: int(mask.sum()) for name, mask in data.masks.items()} == expected


@pytest.mark.parametrize("ratio", [0.0, 0.29, 0.5, 1.0])
@pytest.mark.parametrize("mode", ["true", "false", "random"])
def test_exactly_the_ratio_is_masked(mode: MaskMode, ratio: float) -> None:
    masks = feature_masks({"a": np.random.default_rng(0).random((8, 10)), "b": np.zeros(20)}, ratio, mode)
    assert [masks["a"].shape, masks["b"].shape] == [(8, 10), (20,)]
    assert int(masks["a"].sum() + masks["b"].sum()) == round(100 * ratio)


def test_the_random_mask_follows_its_seed(tmp_path: Path) -> None:
    masks = [feature_masks({"x": RANKED}, 0.5, "random", seed)["x"] for seed in (1, 1, 2)]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_without_a_ratio_no_salience_is_needed() -> None:
    plain, same = batches(SklearnPair()), batches(MaskedFeatures(SklearnPair()))
    assert all(torch.equal(a["x_a"], b["x_a"]) for a, b in zip(plain, same, strict=True))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"ratio": 1.5}, r"ratio must lie in \[0, 1\], got 1.5"),
        ({"ratio": 25}, r"ratio must lie in \[0, 1\], got 25"),
        ({"mode": "top"}, "mode must be one of true, false, random, got 'top'"),
        ({"ratio": 0.5}, "ratio=0.5 needs the salience of the features"),
    ],
)
def test_wrong_arguments_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        MaskedFeatures(SklearnPair(), **changes)


def test_a_file_that_is_missing_or_something_else_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"there is no salience file .*none\.npz: a fit of FeatureMask writes it"
    ):
        MaskedFeatures(SklearnPair(), tmp_path / "none.npz", ratio=0.5).setup()
    (tmp_path / "text.npz").write_text("no zip")
    with pytest.raises(ValueError, match=r"text\.npz is no whole salience file"):
        MaskedFeatures(SklearnPair(), tmp_path / "text.npz", ratio=0.5).setup()
    np.savez(tmp_path / "code.npz", x_a=np.array([print], dtype=object))
    with pytest.raises(ValueError, match=r"code\.npz is no whole salience file"):
        MaskedFeatures(SklearnPair(), tmp_path / "code.npz", ratio=0.5).setup()


def test_salience_of_other_features_is_named_with_both_shapes(tmp_path: Path) -> None:
    sentence = r"is for features of shape \(24,\) of 'x_a', but those of SklearnPair have the shape \(25,\)"
    with pytest.raises(ValueError, match=sentence):
        MaskedFeatures(SklearnPair(), write(tmp_path, x_a=np.zeros(24)), ratio=0.5).setup()
    with pytest.raises(
        ValueError, match="has the salience of 'lidar', but SklearnPair has the modalities 'x_a', 'x_b'"
    ):
        MaskedFeatures(SklearnPair(), write(tmp_path, lidar=np.zeros(24)), ratio=0.5).setup()
    with pytest.raises(ValueError, match="has no salience of 'x_b'; it has 'x_a'"):
        MaskedFeatures(SklearnPair(), write(tmp_path), ratio=0.5, modalities=["x_b"]).setup()


def test_the_teacher_sees_the_mask_in_a_fit_from_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def record(self: Any, batch: Any) -> Any:
        seen.append(batch["x_a"])
        return teacher_output(self, batch)

    teacher_output = DistillationModule.forward_teacher
    monkeypatch.setattr(DistillationModule, "forward_teacher", record)
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
    options = ["--data.salience", str(write(tmp_path)), "--data.ratio", "0.4", "--trainer.max_epochs", "1"]
    main(["fit", "--config", "configs/sklearn/masked_dkd.yaml", "--logs_dir", str(tmp_path), *options, *quiet])
    assert seen
    for x_a in seen:
        assert x_a[:, :10].eq(0).all()
        assert not x_a[:, 10:].eq(0).all()
