"""RAVDESS: actors who say a sentence in one of eight emotions, heard and seen (NTDH, Sec. IV)."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.drawn import DrawnDataModule
from datamodules.reading.sound import SAMPLE_RATE, log_mel, mel_filterbank, middle, read_wav
from datamodules.reading.video_files import read_frames
from datamodules.serving.datasets import Batch, BatchedDataset, SplitName, Splits, check_counts
from datamodules.serving.sampling import SeededIndex, as_floats, flipped, split_seeds, uniform_numbers
from datamodules.serving.unreadable import OnError
from distill.atomic import atomic_write
from distill.errors import UserError, UserFileNotFoundError

CLASS_NAMES = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
ACTORS = 24

Vocal = Literal["speech", "song", "all"]


class RAVDESS(DrawnDataModule):
    """The sound of an utterance for the teacher, and frames of the face for the student.

    Source: Livingstone and Russo, "The Ryerson Audio-Visual Database of Emotional Speech and Song (RAVDESS)", PLoS ONE
    13(5), 2018: 24 actors, 60 utterances each of speech, 44 of song (actor 18 sang none), which have six emotions.

    - ``audio`` ``(N, 1, M, 100 seconds)``, the teacher's: power in mel bands every 10 ms, from -1 (-80 dB of full scale
      or less) to 1 (:func:`~datamodules.reading.sound.log_mel`), of the middle of the utterance, with silence around a
      shorter one;
    - ``video`` ``(N, 3, F, H, W)``, the student's: evenly spaced frames, the middle square, in which the face is, from
      -1 to 1;
    - ``target`` ``(N,)``: the emotion, 0 to 7 in the order of the file names.

    What the archives unpack to, such as ``Audio_Speech_Actors_01-24.zip`` and ``Video_Speech_Actor_01.zip``, at any
    depth below the root. Names are of modality, channel, emotion, intensity, statement, repetition and actor, and those
    of one utterance differ in the first alone::

        root/Actor_01/02-01-06-01-02-01-12.mp4      02: frames without sound; taken from 01, with sound, where 02 is not
        root/Actor_01/03-01-06-01-02-01-12.wav      03: sound without frames, 48 kHz

    The data are split by actor, so that nobody is heard in training and tested on: men have odd numbers, women even
    ones. NTDH, which tells of 1440 files, and so of speech, does not say how it split them. Training mirrors every
    other video, drawn anew in every epoch.

    To decode a video takes a good part of a second. With ``cache_dir``, what was decoded once is stored, a
    file an utterance, and read from then on; a recording that changes its size is decoded again.

    Args:
        root: Holds the recordings.
        vocal: ``speech``, ``song`` or ``all``.
        val_actors: Whom to validate on.
        test_actors: Whom to test on; all others are trained on.
        mels: M, how many mel bands.
        seconds: How much of an utterance is heard.
        frames: F, how many frames of an utterance are seen.
        size: Height and width of a frame.
        cache_dir: Where to store what was decoded; ``None`` decodes it each time.
        seed: Without effect, as nothing is random but the order and the mirroring in training.
        batch_size: ``None`` trains on the full batch.
        num_workers: Processes that load data.
        predict_on: The split that ``predict`` sees, not mirrored.
        on_error: Whether a damaged training file ends a fit (``raise``) or the next readable sample takes its place
            (``skip``).

    Raises:
        ValueError: An argument is out of its range. From ``setup``: a name has not the seven fields, a recording is
            there twice, or an actor is not there. From a loader: a file is damaged.
        FileNotFoundError: From ``setup``: there are no recordings, or one has no partner.
    """

    class_names = CLASS_NAMES

    def __init__(
        self,
        root: str | Path,
        vocal: Vocal = "speech",
        val_actors: Sequence[int] = (19, 20),
        test_actors: Sequence[int] = (21, 22, 23, 24),
        mels: int = 64,
        seconds: float = 4.0,
        frames: int = 8,
        size: int = 112,
        cache_dir: str | Path | None = None,
        seed: int = 0,
        batch_size: int | None = 32,
        num_workers: int = 0,
        predict_on: SplitName = "test",
        on_error: OnError = "raise",
    ) -> None:
        super().__init__(seed, batch_size, num_workers, predict_on, on_error)
        if vocal not in get_args(Vocal):
            raise UserError(f"vocal must be one of {', '.join(get_args(Vocal))}, got {vocal!r}")
        check_counts(mels=mels, frames=frames, size=size)
        if not 0.01 <= seconds < float("inf"):
            raise UserError(f"seconds must be at least 0.01, got {seconds}")
        for name, actors in {"val_actors": val_actors, "test_actors": test_actors}.items():
            _check_actors(name, actors)
        if both := set(val_actors) & set(test_actors):
            raise UserError(f"actor {min(both)} is in val_actors and in test_actors")
        self.root = Path(root)
        self.vocal: Vocal = vocal
        self.val_actors = tuple(val_actors)
        self.test_actors = tuple(test_actors)
        self.decoder = Decoder(mels, seconds, frames, size, None if cache_dir is None else Path(cache_dir))

    @property
    def num_classes(self) -> int:
        """Eight."""
        return len(CLASS_NAMES)

    @property
    def modalities(self) -> tuple[str, ...]:
        """``audio`` and ``video``."""
        return ("audio", "video")

    def make_splits(self) -> Splits:
        """Pairs the recordings and splits them by actor; only training's are mirrored."""
        recordings = find_recordings(self.root, self.vocal)
        held_out = (self.val_actors, self.test_actors)
        train = sorted({one.actor for one in recordings} - {actor for part in held_out for actor in part})
        if not train:
            raise UserError(f"val_actors and test_actors leave no actor of {self.root} to train on")
        parts = {"train_actors": train, "val_actors": self.val_actors, "test_actors": self.test_actors}
        return Splits(*(Recordings(_of(name, part, recordings), self.decoder) for name, part in parts.items()))


class Recording(NamedTuple):
    """An utterance: both files, the emotion from 0, the actor from 1, and what the names have in common."""

    video: Path
    audio: Path
    emotion: int
    actor: int
    key: str


class Decoder:
    """Reads utterances, and stores what it read.

    Args:
        mels: How many mel bands.
        seconds: How much of an utterance is heard.
        frames: How many frames are seen.
        size: Their height and width.
        cache_dir: Where to store; ``None`` stores nothing.

    Raises:
        ValueError: There are too many mel bands.
    """

    def __init__(self, mels: int, seconds: float, frames: int, size: int, cache_dir: Path | None) -> None:
        self.filters = mel_filterbank(mels)
        self.length = round(seconds * SAMPLE_RATE)
        self.frames = frames
        self.size = size
        # what was decoded in another way lies in another folder
        way = f"mels{mels}_samples{self.length}_frames{frames}_size{size}"
        self.folder = None if cache_dir is None else cache_dir / way

    def read(self, recording: Recording) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """The sound, ``(M, T)``, and the frames, ``(F, 3, H, W)``.

        Raises:
            ValueError: A file is damaged.
        """
        if self.folder is None:
            return self._decode(recording)
        path = self.folder / f"{recording.key}.npz"
        sizes = [file.stat().st_size for file in (recording.audio, recording.video)]
        try:
            with np.load(path) as stored:
                if stored["sizes"].tolist() == sizes:
                    return stored["audio"], stored["video"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            pass  # not there, or damaged: it is written below
        audio, video = self._decode(recording)
        with atomic_write(path) as draft:
            np.savez(draft, audio=audio, video=video, sizes=sizes)
        return audio, video

    def _decode(self, recording: Recording) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        sound = middle(read_wav(recording.audio), self.length)
        return log_mel(sound, self.filters), read_frames(recording.video, self.frames, self.size)


class Recordings(BatchedDataset):
    """A split: ``audio``, ``video``, ``target`` and ``index``.

    A plain position gives the utterance as it is, a :class:`~datamodules.serving.sampling.SeededIndex` that draw's
    augmentation.

    Args:
        recordings: One entry an utterance.
        decoder: Reads them.
    """

    def __init__(self, recordings: Sequence[Recording], decoder: Decoder) -> None:
        self.recordings = recordings
        self.decoder = decoder
        self.labels = torch.tensor([one.emotion for one in recordings])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: Sequence[int | SeededIndex]) -> Batch:
        """A batch of draws, or one of plain positions.

        Raises:
            ValueError: A file is damaged.
        """
        index, draws = split_seeds(indices)
        audio, video = map(np.stack, zip(*(self.decoder.read(self.recordings[at]) for at in index), strict=True))
        if draws:
            mirror = uniform_numbers([[seed] for seed in draws], 1)[:, 0]
            video = flipped(video.reshape(len(video), -1, *video.shape[-2:]), mirror).reshape(video.shape)
        return {
            "audio": torch.from_numpy(audio)[:, None],
            "video": as_floats(np.ascontiguousarray(video.swapaxes(1, 2))),
            "target": self.labels[index],
            "index": torch.from_numpy(index),
        }


def find_recordings(root: Path, vocal: Vocal = "speech") -> list[Recording]:
    """All utterances below a folder, sorted by their names' fields.

    Args:
        root: The folder.
        vocal: Which to take.

    Raises:
        ValueError: A name has not the seven fields, or a recording is there twice.
        FileNotFoundError: There are none, or one has no partner.
    """
    if not root.is_dir():
        raise UserFileNotFoundError(f"root {root} is not a folder")
    sounds, silent, sounding = (_find(root, modality, vocal) for modality in ("03", "02", "01"))
    videos = sounding | silent
    if not sounds and not videos:
        raise UserFileNotFoundError(f"{root} holds no recordings of {vocal}, such as 03-01-06-01-02-01-12.wav")
    for files, partners, partner in ((videos, sounds, "sound (03-*.wav)"), (sounds, videos, "video (02-*.mp4)")):
        alone = sorted(files.keys() - partners.keys())
        if alone:
            raise UserFileNotFoundError(
                f"{root} holds no {partner} for {len(alone)} of {len(files)} recordings, the first is {files[alone[0]]}"
            )
    return [
        Recording(videos[key], sounds[key], int(key.split("-")[1]) - 1, int(key.split("-")[5]), key)
        for key in sorted(sounds)
    ]


FIELDS = re.compile(r"0[1-3]-0[12]-0[1-8]-0[12]-0[12]-0[12]-(0[1-9]|1\d|2[0-4])")


def _find(root: Path, modality: str, vocal: Vocal) -> dict[str, Path]:
    """The files of a modality by the other fields of their names."""
    found: dict[str, Path] = {}
    for path in sorted(root.rglob("*.wav" if modality == "03" else "*.mp4")):
        if path.name.startswith("."):
            continue
        if not FIELDS.fullmatch(path.stem):
            raise UserError(
                f"{path} is not named by modality, channel, emotion, intensity, statement, repetition and actor, as "
                "03-01-06-01-02-01-12.wav"
            )
        key = path.stem[3:]
        if path.stem[:2] != modality or (vocal != "all" and key[:2] != {"speech": "01", "song": "02"}[vocal]):
            continue
        if key in found:
            raise UserError(f"{path} and {found[key]} are one recording")
        found[key] = path
    return found


def _of(name: str, actors: Sequence[int], recordings: Sequence[Recording]) -> list[Recording]:
    there = {one.actor for one in recordings}
    for actor in actors:
        if actor not in there:
            raise UserError(f"{name} has actor {actor}, of whom there is no recording")
    return [one for one in recordings if one.actor in actors]


def _check_actors(name: str, actors: Sequence[int]) -> None:
    if not actors or len(set(actors)) < len(actors):
        raise UserError(f"{name} must be one or more different actors, got {list(actors)}")
    strange = [actor for actor in actors if not 1 <= actor <= ACTORS]
    if strange:
        raise UserError(f"{name} must be of 1 to {ACTORS}, got {strange[0]}")
