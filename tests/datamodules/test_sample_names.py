"""Samples that lie in files have names, under which their predictions are told apart."""

from __future__ import annotations

from pathlib import Path

from datamodules import RAVDESS, MaskedFeatures, NoisyPair, RadarOptical, SklearnPair
from tests.datamodules.image_trees import write_image_folder, write_radar_optical
from tests.datamodules.recordings import write_ravdess


def test_images_are_named_by_their_paths_and_recordings_by_the_fields_of_their_names(tmp_path: Path) -> None:
    images = NoisyPair("image_folder", root=write_image_folder(tmp_path / "images"), image_size=8, predict_on="test")
    images.setup()
    assert len(images.sample_names) == len(set(images.sample_names)) > 1
    for name in images.sample_names:
        assert name.startswith("val/")
        assert (tmp_path / "images" / name).is_file()
    pairs = RadarOptical(write_radar_optical(tmp_path / "pairs"), size=8, predict_on="train")
    pairs.setup()
    assert len(set(pairs.sample_names)) == len(pairs.predict_dataset)  # type: ignore[arg-type]
    for name in pairs.sample_names:
        assert len(list((tmp_path / "pairs" / "radar").glob(f"{name}.*"))) == 1
    clips = RAVDESS(write_ravdess(tmp_path / "clips"), val_actors=[19], test_actors=[21])
    clips.setup()
    assert {name.rpartition("-")[2] for name in clips.sample_names} == {"21"}
    for name in clips.sample_names:
        assert len(list((tmp_path / "clips").rglob(f"03-{name}.wav"))) == 1


def test_samples_in_memory_have_no_names() -> None:
    data = MaskedFeatures(SklearnPair())
    data.setup()
    assert data.sample_names == ()
