from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules import RAVDESS
from datamodules.ravdess import CLASS_NAMES, find_recordings
from tests.datamodules.recordings import grey_frames, write_ravdess, write_video, write_wav


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ravdess(tmp_path_factory.mktemp("ravdess"))


SMALL: dict[str, Any] = {
    "val_actors": [19], "test_actors": [21], "mels": 32, "seconds": 0.4, "frames": 2, "size": 16, "batch_size": 8
}  # fmt: skip


def ready(root: Path, **arguments: Any) -> RAVDESS:
    module = RAVDESS(root, **SMALL | arguments)
    module.setup()
    return module


def test_batches_hold_sound_frames_emotion_and_index(tree: Path) -> None:
    module = ready(tree)
    assert module.modalities == ("audio", "video")
    assert module.num_classes == len(CLASS_NAMES) == 8
    # 01 to 08 of the third field, as published
    assert CLASS_NAMES == ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
    batch = next(iter(module.val_dataloader()))
    assert {name: tuple(values.shape) for name, values in batch.items()} == {
        "audio": (8, 1, 32, 40),
        "video": (8, 3, 2, 16, 16),
        "target": (8,),
        "index": (8,),
    }
    assert batch["target"].tolist() == [*range(8)]
    assert -1 <= batch["video"].min() < batch["video"].max() <= 1


def test_sound_and_frames_are_those_of_the_files(tree: Path) -> None:
    batch = next(iter(ready(tree).val_dataloader()))
    # the tone of actor 19 has 1900 Hz; the middle of 0.4 s of which 0.3 s are sound
    peak = batch["audio"][:, 0, :, 20].argmax(1)
    assert (peak == peak[0]).all()
    corners = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 34) / 2595) - 1)
    assert corners[peak[0]] < 1900 < corners[peak[0] + 2]
    assert (batch["audio"][..., 0] == -1).all()
    # frames 3 and 9 of 12: 40 and the emotion, counted from 1, more in each
    greys = (batch["video"].mean((1, 3, 4)) + 1) * 127.5
    expected = [[40 + 3 * emotion, 40 + 9 * emotion] for emotion in range(1, 9)]
    np.testing.assert_allclose(greys.numpy(), expected, atol=4)


def test_what_is_heard_last_comes_last(tmp_path: Path) -> None:
    root = write_ravdess(tmp_path, actors=[1, 19, 21])
    late = np.sin(np.arange(19200)) * (np.arange(19200) >= 9600)  # 0.4 s at 48 kHz
    for path in (root / "Actor_19").glob("*.wav"):
        write_wav(path, late)
    power = ready(root).splits.val[0]["audio"][0].mean(0)
    assert (power[:18] < power[22:].min()).all()


def test_actors_are_in_one_split_each(tree: Path) -> None:
    module = ready(tree)
    actors = [{one.actor for one in split.recordings} for split in module.splits]  # type: ignore[attr-defined]
    assert actors == [{1, 2}, {19}, {21}]
    assert [len(split) for split in module.splits] == [16, 8, 8]  # type: ignore[arg-type]


def test_women_and_men_are_held_out_in_equal_numbers_by_default() -> None:
    module = RAVDESS("root")
    for actors in (module.val_actors, module.test_actors):
        assert sum(actor % 2 for actor in actors) * 2 == len(actors)


def test_videos_with_sound_serve_where_there_are_none_without(tmp_path: Path) -> None:
    root = write_ravdess(tmp_path, actors=[3])
    silent = sorted((root / "Actor_03").glob("02-*.mp4"))
    for path in silent[:4]:
        path.rename(path.with_name("01" + path.name[2:]))
    write_video(silent[5].with_name("01" + silent[5].name[2:]), grey_frames(3, 1))
    chosen = [one.video.name[:2] for one in find_recordings(root)]
    assert chosen == ["01"] * 4 + ["02"] * 4


def test_speech_song_or_both_are_taken_from_folders_of_any_depth(tmp_path: Path) -> None:
    root = write_ravdess(tmp_path / "a" / "b", actors=[4], vocals=[1, 2])
    (root / "Actor_04" / "._03-01-01-01-01-01-04.wav").touch()
    keys = {vocal: [one.key[:2] for one in find_recordings(tmp_path, vocal)] for vocal in ("speech", "song", "all")}
    assert keys == {"speech": ["01"] * 8, "song": ["02"] * 8, "all": ["01"] * 8 + ["02"] * 8}


def test_training_mirrors_every_other_video_and_nothing_else(tmp_path: Path) -> None:
    root = write_ravdess(tmp_path, actors=[1, 19, 21])
    frame = np.zeros((32, 32, 3), np.uint8)
    frame[:, 16:] = 255
    for path in (root / "Actor_01").glob("*.mp4"):
        write_video(path, [frame] * 4)
    module = ready(root)
    plain = module.splits.train.__getitems__([*range(8)])  # type: ignore[attr-defined]
    torch.manual_seed(0)
    loader, flips = module.train_dataloader(), []
    for _ in range(4):
        batch = next(iter(loader))
        for row, index in enumerate(batch["index"].tolist()):
            assert torch.equal(batch["audio"][row], plain["audio"][index])
            assert batch["target"][row] == plain["target"][index]
            mirrored = not torch.equal(batch["video"][row], plain["video"][index])
            assert not mirrored or torch.equal(batch["video"][row], plain["video"][index].flip(-1))
            flips.append(mirrored)
    assert 8 <= sum(flips) <= 24


def test_what_was_decoded_is_read_from_the_cache_until_the_recording_changes(tree: Path, tmp_path: Path) -> None:
    plain, cached = ready(tree), ready(tree, cache_dir=tmp_path)
    first = next(iter(plain.val_dataloader()))
    for _ in range(2):
        assert all(torch.equal(first[name], values) for name, values in next(iter(cached.val_dataloader())).items())
    stored = sorted(tmp_path.rglob("*"))
    assert len([path for path in stored if path.suffix == ".npz"]) == 8
    # read from there, not decoded
    key = cached.splits.val.recordings[0].key  # type: ignore[attr-defined]
    (path,) = tmp_path.rglob(f"{key}.npz")
    with np.load(path) as values:
        held = dict(values)
    np.savez(path, **held | {"audio": np.full_like(held["audio"], 0.25)})
    assert (cached.splits.val[0]["audio"] == 0.25).all()
    # sizes of other files, and half a file
    np.savez(path, **held | {"audio": np.full_like(held["audio"], 0.25), "sizes": held["sizes"] + 1})
    assert torch.equal(cached.splits.val[0]["audio"], first["audio"][0])
    path.write_bytes(path.read_bytes()[:200])
    assert torch.equal(cached.splits.val[0]["audio"], first["audio"][0])


@pytest.mark.parametrize("changed", [{"mels": 20}, {"seconds": 0.2}, {"frames": 3}, {"size": 8}])
def test_another_way_to_decode_has_a_cache_of_its_own(tree: Path, tmp_path: Path, changed: dict[str, Any]) -> None:
    ready(tree, cache_dir=tmp_path).splits.val[0]
    first, second = (ready(tree, cache_dir=folder, **changed).splits.val[0] for folder in (None, tmp_path))
    assert all(torch.equal(first[name], second[name]) for name in ("audio", "video"))


@pytest.mark.parametrize("name", ["03-01-01-01-01-01-19.wav", "02-01-01-01-01-01-19.mp4"])
def test_a_recording_that_changes_its_size_is_decoded_again(tmp_path: Path, name: str) -> None:
    root = write_ravdess(tmp_path, actors=[1, 19, 21])
    before = ready(root, cache_dir=tmp_path / "cache").splits.val[0]
    changed = root / "Actor_19" / name
    if changed.suffix == ".wav":
        write_wav(changed, np.zeros(48000))
    else:
        write_video(changed, grey_frames(20, 10))
    after = ready(root, cache_dir=tmp_path / "cache").splits.val[0]
    modality = "audio" if changed.suffix == ".wav" else "video"
    assert not torch.equal(before[modality], after[modality])


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("03-01-02-01-01-01-05.wav", r"holds no sound \(03-\*\.wav\) for 1 of 8 recordings, the first is .*02-01-02"),
        ("02-01-02-01-01-01-05.mp4", r"holds no video \(02-\*\.mp4\) for 1 of 8 recordings, the first is .*03-01-02"),
    ],
)
def test_an_unpaired_recording_is_named(tmp_path: Path, gone: str, message: str) -> None:
    root = write_ravdess(tmp_path, actors=[5])
    (root / "Actor_05" / gone).unlink()
    with pytest.raises(FileNotFoundError, match=message):
        find_recordings(root)


def test_strange_names_doubles_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"^{tmp_path} holds no recordings of speech, such as 03-01-06"):
        find_recordings(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"^root nowhere is not a folder$"):
        find_recordings(Path("nowhere"))
    root = write_ravdess(tmp_path, actors=[5])
    double = root / "again" / "03-01-02-01-01-01-05.wav"
    double.parent.mkdir()
    double.touch()
    with pytest.raises(ValueError, match=f"^{double} and .*Actor_05/{double.name} are one recording$"):
        find_recordings(root)
    for name in ("03-01-09-01-01-01-05.wav", "03-01-02-01-01-01-25.wav", "speech.wav"):
        double.unlink()
        double = double.with_name(name)
        double.touch()
        with pytest.raises(ValueError, match=f"^{double} is not named by modality, channel, emotion, intensity"):
            find_recordings(root)


def test_damaged_files_are_named_when_they_are_read(tmp_path: Path) -> None:
    root = write_ravdess(tmp_path, actors=[1, 19, 21])
    module = ready(root)
    (root / "Actor_19" / "03-01-01-01-01-01-19.wav").write_bytes(b"RIFF")
    with pytest.raises(ValueError, match=r"03-01-01-01-01-01-19\.wav cannot be read"):
        module.splits.val[0]
    (root / "Actor_19" / "02-01-02-01-01-01-19.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"02-01-02-01-01-01-19\.mp4 cannot be read as a video$"):
        module.splits.val[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocal": "spoken"}, "vocal must be one of speech, song, all, got 'spoken'"),
        ({"val_actors": []}, r"val_actors must be one or more different actors, got \[\]"),
        ({"test_actors": [25]}, r"test_actors must lie in \[1, 24\], got 25"),
        ({"test_actors": [19]}, "actor 19 is in val_actors and in test_actors"),
        ({"seconds": 0}, "seconds must be at least 0.01, got 0"),
        ({"frames": 0}, "frames must be at least 1, got 0"),
        ({"mels": 400}, "400 mel bands are too many .*"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        RAVDESS("root", **SMALL | arguments)


def test_actors_that_are_not_there_are_named(tree: Path) -> None:
    with pytest.raises(ValueError, match=r"^test_actors has actor 22, but there is no recording of this actor$"):
        ready(tree, test_actors=[22])
    with pytest.raises(ValueError, match=f"^val_actors and test_actors leave no actor of {tree} to train on$"):
        ready(tree, test_actors=[1, 2, 21])
