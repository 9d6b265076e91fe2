from __future__ import annotations

import gzip
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import nibabel
import numpy as np
import pytest
import torch
from lightning import seed_everything

from datamodules import Batch, MissingModalityMRI
from datamodules.missing_modality_mri import Volumes
from datamodules.reading.brats import ReleaseYear
from datamodules.serving.datasets import SplitName
from datamodules.serving.sampling import SeededIndex
from tests.datamodules.volumes import AFFINE, NAMES, SHAPE, write_brats, write_volume

NAMED = {"val_cases": ["BraTS-GLI-00000"], "test_cases": ["BraTS-GLI-00003-000"]}
CASE = "BraTS-GLI-00000-000"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Must not be changed."""
    return write_brats(tmp_path_factory.mktemp("brats"))


@pytest.fixture
def changed(root: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(root, tmp_path / "brats"))


def ready(root: Path, **arguments: Any) -> MissingModalityMRI:
    given: dict[str, Any] = {"patch_size": (4, 4, 4), **NAMED, **arguments}
    module = MissingModalityMRI(root, **given)
    module.setup()
    return module


def stored(root: Path, name: str, ending: str) -> np.ndarray[Any, Any]:
    return np.asarray(nibabel.load(root / name / f"{name}-{ending}.nii.gz").dataobj)  # type: ignore[attr-defined]


def names_of(module: MissingModalityMRI) -> list[list[str]]:
    return [cast(Volumes, split).names for split in module.splits]


def test_a_whole_volume_is_the_file_normalised_within_the_brain_and_padded(root: Path) -> None:
    (batch,) = ready(root, divisor=4).val_dataloader()
    values = stored(root, CASE, "t2f").astype(np.float64)
    brain = values != 0
    expected = np.where(brain, (values - values[brain].mean()) / values[brain].std(), 0).transpose(2, 1, 0)
    assert batch["t2f"].shape == (1, 1, 12, 12, 16)
    np.testing.assert_allclose(batch["t2f"][0, 0, :9, :, :14], expected, atol=1e-5)
    assert not batch["t2f"][0, 0, 9:].any()
    np.testing.assert_array_equal(batch["target"][0, :9, :, :14], stored(root, CASE, "seg").transpose(2, 1, 0))
    assert (batch["target"][0, 9:] == 255).all()
    assert (batch["target"][0, :, :, 14:] == 255).all()
    assert batch["name"] == [CASE]


def test_a_patch_is_a_flipped_part_of_the_whole_volume_for_all_sequences_and_the_target(root: Path) -> None:
    module = ready(root)
    train = cast(Volumes, module.splits.train)
    whole = train.whole[0]
    for seed in range(4):
        patch = train[cast(int, SeededIndex(0, seed))]
        found = []
        for axes in ((), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)):
            for start in np.ndindex(6, 9, 11):
                part = tuple(slice(first, first + 4) for first in start)
                if torch.equal(whole["target"][part].flip(axes), patch["target"]):
                    found.append((part, axes))
        part, axes = next(
            (part, axes) for part, axes in found if torch.equal(whole["t1n"][0][part].flip(axes), patch["t1n"][0])
        )
        assert all(torch.equal(whole[name][0][part].flip(axes), patch[name][0]) for name in module.modalities)


def test_patches_follow_the_seed_and_change_in_every_epoch(root: Path) -> None:
    def epochs() -> list[torch.Tensor]:
        seed_everything(3, verbose=False)
        loader = ready(root, batch_size=None).train_dataloader()
        return [next(iter(loader))["t1c"] for _ in range(2)]

    first, again = epochs(), epochs()
    assert all(map(torch.equal, first, again))
    assert not torch.equal(*first)


def test_tumour_share_1_centres_every_patch_on_the_tumour(root: Path) -> None:
    train = cast(Volumes, ready(root, patch_size=(1, 1, 1), tumour_share=1.0).splits.train)
    batch = train.__getitems__([SeededIndex(0, seed) for seed in range(20)])
    assert batch["target"].flatten().min() > 0


def test_a_patch_larger_than_the_volume_is_padded(root: Path) -> None:
    batch = next(iter(ready(root, patch_size=(16, 4, 4), flips=False).train_dataloader()))
    assert batch["target"].shape == (2, 16, 4, 4)
    assert (batch["target"][:, 9:] == 255).all()
    assert not batch["t1n"][:, :, 9:].any()


def test_predict_takes_whole_volumes_of_the_training_split_too(root: Path) -> None:
    module = ready(root, predict_on="train")
    assert [batch["target"].shape for batch in module.predict_dataloader()] == [(1, 16, 16, 16)] * 2


@pytest.mark.parametrize("seed", range(5))
def test_no_patient_is_in_two_splits_and_each_case_is_in_one(root: Path, seed: int) -> None:
    splits = names_of(ready(root, seed=seed, val_cases=None, test_cases=None))
    assert sorted(name for names in splits for name in names) == sorted(NAMES)
    patients = [{name[:15] for name in names} for names in splits]
    assert sum(map(len, patients)) == len(set().union(*patients)) == 3


def test_named_cases_and_patients_have_their_split(root: Path) -> None:
    assert names_of(ready(root)) == [list(NAMES[1:3]), [NAMES[0]], [NAMES[3]]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"val_cases": ["BraTS-GLI-00002-000"]}, "val_cases has a case of the patient BraTS-GLI-00002, but not"),
        ({"val_cases": ["BraTS-GLI-00009"]}, r"must name .* of the 4 cases .*, got \['BraTS-GLI-00009'\]"),
        ({"val_cases": []}, "val_cases must name one or more"),
        ({"test_cases": ["BraTS-GLI-00000"]}, "BraTS-GLI-00000 is in val_cases and in test_cases"),
        ({"val_cases": ["BraTS-GLI-00000", "BraTS-GLI-00002"]}, "no case is left for train: .* holds 3 patients"),
    ],
)
def test_splits_that_do_not_fit_are_refused(root: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ready(root, **given)


def test_release_2021_has_other_names_and_4_for_enhancing_tumour(tmp_path: Path) -> None:
    names = ("BraTS2021_00000", "BraTS2021_00002", "BraTS2021_00003")
    write_brats(tmp_path / "HGG", 2021, names)
    module = ready(tmp_path, release=2021, val_cases=names[:1], test_cases=names[1:2], divisor=1)
    (batch,) = module.val_dataloader()
    labels = np.asarray(nibabel.load(tmp_path / "HGG" / names[0] / f"{names[0]}_seg.nii.gz").dataobj)  # type: ignore[attr-defined]
    assert set(np.unique(labels)) == {0, 1, 2, 4}
    np.testing.assert_array_equal(batch["target"][0], np.where(labels == 4, 3, labels).transpose(2, 1, 0))
    with pytest.raises(FileNotFoundError, match=r"holds no case named like .*: its files are named as in release 2021"):
        ready(tmp_path)


def test_release_2024_has_the_resection_cavity_which_2023_refuses(tmp_path: Path) -> None:
    write_brats(tmp_path, 2024)
    assert ready(tmp_path, release=2024).class_names == ("background", "NCR", "ED", "ET", "RC")
    with pytest.raises(ValueError, match="holds the label 4, but the labels are 0, 1, 2, 3: 4 is the enhancing tumour"):
        ready(tmp_path)


def test_a_missing_sequence_is_refused_or_given_as_zeros(changed: Path) -> None:
    (changed / CASE / f"{CASE}-t1c.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=f"1 of the 4 cases .* has no {CASE}-t1c.nii.gz; missing: zeros"):
        ready(changed)
    module = ready(changed, missing="zeros")
    (batch,) = module.val_dataloader()
    present = {name: batch[f"{name}_present"].tolist() for name in module.modalities}
    assert present == {"t1n": [True], "t1c": [False], "t2w": [True], "t2f": [True]}
    assert not batch["t1c"].any()


def test_only_all_cases_to_test_on_may_lack_a_segmentation(changed: Path) -> None:
    (changed / NAMES[3] / f"{NAMES[3]}-seg.nii.gz").unlink()
    (batch,) = ready(changed).test_dataloader()
    assert "target" not in batch
    write_brats(changed, names=("BraTS-GLI-00004-000",))
    message = f"1 of the 2 cases to test on have no segmentation, the first is {NAMES[3]}: only test_cases"
    with pytest.raises(ValueError, match=message):
        ready(changed, test_cases=["BraTS-GLI-00004", NAMES[3]])


def shorter(path: Path) -> None:
    write_volume(path, np.ones((14, 12, 8), np.int16))


def moved(path: Path) -> None:
    write_volume(path, np.ones(SHAPE, np.int16), AFFINE + np.eye(4, k=3))


def flat(path: Path) -> None:
    write_volume(path, np.ones(SHAPE[:2], np.int16))


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shorter, r"must have one shape, but .* has \(14, 12, 9\) and .*t2w.* has \(14, 12, 8\)"),
        (moved, r"must have one affine, but those of .*t1n.* and .*t2w.* differ by up to 1: resample"),
        (flat, r"t2w.nii.gz should hold a volume of three dims, but has the shape \(14, 12\)"),
        (cut_off, r"t2w.nii.gz cannot be read"),
    ],
)
def test_files_that_do_not_fit_together_are_refused_by_setup(
    changed: Path, change: Callable[[Path], None], message: str
) -> None:
    change(changed / CASE / f"{CASE}-t2w.nii.gz")
    with pytest.raises(ValueError, match=message):
        ready(changed)


@pytest.mark.parametrize("value", [np.nan, None])
def test_a_damaged_volume_is_one_sentence_and_can_be_skipped_in_training(changed: Path, value: float | None) -> None:
    path = changed / NAMES[1] / f"{NAMES[1]}-t1n.nii.gz"
    if value is None:
        path.write_bytes(path.read_bytes()[:-300])
    else:
        write_volume(path, np.full(SHAPE, value, np.float32))
    with pytest.raises(ValueError, match=r"t1n.nii.gz (cannot be read|holds a value that is not finite)"):
        list(ready(changed).train_dataloader())
    (batch,) = ready(changed, on_error="skip").train_dataloader()
    assert batch["name"] == [NAMES[2]] * 2


def test_a_folder_without_cases_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no case named like BraTS-GLI-00000-000/BraTS-GLI-00000-000-t1n"):
        ready(tmp_path)
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        ready(tmp_path / "nothing")


def test_nibabel_is_asked_for_in_one_sentence(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(ModuleNotFoundError, match=r"NIfTI files need nibabel: pip install 'crossdistill\[nifti\]'"):
        ready(root)


@pytest.mark.parametrize("year", [2021, 2023])
def test_a_prediction_is_a_file_with_the_affine_and_the_labels_of_the_case(tmp_path: Path, year: ReleaseYear) -> None:
    write_brats(tmp_path, year)
    split: SplitName = "val"
    module = ready(tmp_path, release=year, predict_on=split)
    (batch,) = module.predict_dataloader()
    target = batch["target"][0].numpy()
    assert module.prediction_path(0) == f"{CASE}.nii.gz"
    path = tmp_path / "draft.gz"
    module.write_prediction(path, np.where(target == 255, 1, target), 0)
    written = nibabel.Nifti1Image.from_bytes(gzip.decompress(path.read_bytes()))
    (source,) = (tmp_path / CASE).glob("*seg.nii.gz")
    original = nibabel.load(source)
    np.testing.assert_array_equal(np.asarray(written.dataobj), np.asarray(original.dataobj))  # type: ignore[attr-defined]
    np.testing.assert_array_equal(written.affine, original.affine)  # type: ignore[attr-defined]
    assert np.asarray(written.dataobj).dtype == np.uint8
    module.write_prediction(path, np.full(target.shape, -1), 0)
    assert not np.asarray(nibabel.Nifti1Image.from_bytes(gzip.decompress(path.read_bytes())).dataobj).any()
    with pytest.raises(ValueError, match=f"the prediction for {CASE} has the shape .* less than the volume's"):
        module.write_prediction(path, target[:4], 0)


def test_a_batch_has_a_name_for_each_sample(root: Path) -> None:
    batch: Batch = next(iter(ready(root).train_dataloader()))
    assert batch["name"] == [NAMES[1:3][index] for index in batch["index"].tolist()]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"release": 2020}, "release must be one of 2021, 2023, 2024, got 2020"),
        ({"missing": "skip"}, "missing must be one of refuse, zeros, got 'skip'"),
        ({"patch_size": (4, 0, 4)}, "patch_size must be at least 1, got 0"),
        ({"patch_size": (4, 4)}, r"patch_size must be three numbers, depth, height and width, got \[4, 4\]"),
    ],
)
def test_arguments_out_of_range_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MissingModalityMRI("nowhere", **given)


def test_volumes_of_two_sizes_in_one_batch_are_refused(changed: Path) -> None:
    write_brats(changed, names=(NAMES[2],), shape=(14, 12, 30))
    module = ready(changed, predict_on="train", evaluation_batch_size=2)
    with pytest.raises(
        ValueError, match=r"must have one shape, got \(16, 16, 16\) of .*: give evaluation_batch_size 1"
    ):
        list(module.predict_dataloader())


def header_with_a_nan(path: Path) -> None:
    content = bytearray(nibabel.Nifti1Image(np.ones(SHAPE, np.uint8), AFFINE).to_bytes())  # type: ignore[no-untyped-call]
    content[280:284] = np.float32(np.nan).tobytes()  # srow_x of the header
    path.write_bytes(gzip.compress(content))


COLOUR = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
STRANGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "colours": (lambda path: write_volume(path, np.zeros(SHAPE, COLOUR)), "but holds colours"),
    "complex": (lambda path: write_volume(path, np.zeros(SHAPE, np.complex64)), "but holds complex numbers"),
    "an affine of NaN": (header_with_a_nan, "has an affine that is not finite"),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_a_volume_without_real_numbers_or_a_place_is_refused_in_setup(kind: str, changed: Path) -> None:
    write, sentence = STRANGE[kind]
    write(changed / CASE / f"{CASE}-t1n.nii.gz")
    with pytest.raises(ValueError, match=rf"{CASE}-t1n\.nii\.gz .*{sentence}"):
        ready(changed)


def test_a_volume_in_two_files_is_refused(changed: Path) -> None:
    write_volume(changed / CASE / f"{CASE}-t1n.nii", np.zeros(SHAPE, np.uint8))
    with pytest.raises(ValueError, match=rf"{CASE}-t1n\.nii(\.gz)? and {CASE}-t1n\.nii(\.gz)? are one volume: remove"):
        ready(changed)


def test_a_sequence_of_zeros_is_warned_about(changed: Path) -> None:
    write_volume(changed / CASE / f"{CASE}-t1n.nii.gz", np.zeros(SHAPE, np.uint8))
    with pytest.warns(UserWarning, match=rf"{CASE}-t1n\.nii\.gz holds zeros only"):
        next(iter(ready(changed).val_dataloader()))
