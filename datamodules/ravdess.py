"""RAVDESS: sound and video of actors who say or sing a sentence in one of eight emotions (NTDH, Sec. IV)."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.reading.folders import walk_files
from datamodules.reading.sound import SAMPLE_RATE, log_mel, mel_filterbank, middle, read_wav
from datamodules.reading.video_files import read_frames
from datamodules.seeded import SeededDataModule
from datamodules.serving.datasets import Splits, pixels_to_floats
from datamodules.serving.sampling import SeededDataset, flip_where, uniform_numbers
from datamodules.serving.splitting import check_disjoint, check_groups
from distill.atomic import atomic_write
from distill.checks import check_at_least, check_option
from distill.errors import UserError, UserFileNotFoundError
from distill.outputs import Batch

CLASS_NAMES = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
ACTORS = 24
NAME_PATTERN = re.compile(r"0[1-3]-0[12]-0[1-8]-0[12]-0[12]-0[12]-(0[1-9]|1\d|2[0-4])")

Vocal = Literal["speech", "song", "all"]


class RAVDESS(SeededDataModule):
    """The sound of an utterance for the teacher, and frames of the face for the student.

    Source: Livingstone and Russo, "The Ryerson Audio-Visual Database of Emotional Speech and Song (RAVDESS)", PLoS ONE
    13(5), 2018: 24 actors with 60 utterances of speech each, in eight emotions, and 44 of song (none of actor 18), in
    six emotions.

    - ``audio`` ``(N, 1, M, 100 seconds)``, the teacher's: power in mel bands every 10 ms, from -1 (-80 dB of full scale
      or less) to 1 (:func:`~datamodules.reading.sound.log_mel`), of the middle of the utterance; a shorter utterance
      has silence on both sides;
    - ``video`` ``(N, 3, F, H, W)``, the student's: the middle squares of evenly spaced frames, which hold the face,
      from -1 to 1;
    - ``target`` ``(N,)``: the emotion, 0 to 7 in the order of the file names.

    The root holds, at any depth, the unpacked archives, such as ``Audio_Speech_Actors_01-24.zip`` and
    ``Video_Speech_Actor_01.zip``. A file name gives modality, channel, emotion, intensity, statement, repetition and
    actor; the names of one utterance differ in the modality only::

        root/Actor_01/02-01-06-01-02-01-12.mp4      02: video without sound; 01, with sound, is read if 02 is missing
        root/Actor_01/03-01-06-01-02-01-12.wav      03: sound, 48 kHz

    The splits are by actor, so that no actor is in two splits; men have odd numbers, women even ones. NTDH counts 1440
    files, which is the number of the speech files, and does not describe its split. In every epoch, training flips a
    video with probability 1/2.

    Decoding a video takes several tenths of a second. With ``cache_dir``, each decoded utterance is stored in a file
    and read from there later; a recording that changes its size is decoded again.

    Args:
        root: Holds the recordings.
        vocal: ``speech``, ``song`` or ``all``.
        val_actors: The numbers of the actors to validate on.
        test_actors: The numbers of the actors to test on; all other actors are trained on.
        mels: M, the number of mel bands.
        seconds: The length of the sound.
        frames: F, the number of frames of a video.
        size: Height and width of a frame.
        cache_dir: Where to store decoded utterances; ``None`` decodes them each time.
        batch_size: Samples in a batch; ``None`` puts the whole split into one batch.
        **kwargs: Further arguments of :class:`~datamodules.seeded.SeededDataModule`. ``seed`` has no effect: the splits
            are not random.

    Raises:
        ValueError: An argument is out of its range. From ``setup``: a file name lacks the seven fields, a recording
            exists twice, or an actor has no recordings. From a loader: a file is damaged.
        FileNotFoundError: From ``setup``: there are no recordings, or one has no partner.
    """

    class_names = CLASS_NAMES
    normalization = {"video": ((0.5,), (0.5,))}
    rows_upwards = ("audio",)

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
        batch_size: int | None = 32,
        **kwargs: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, **kwargs)
        check_option("vocal", vocal, get_args(Vocal))
        check_at_least(1, mels=mels, frames=frames, size=size)
        check_at_least(0.01, seconds=seconds)
        for name, actors in {"val_actors": val_actors, "test_actors": test_actors}.items():
            check_groups(name, actors, "actors", 1, ACTORS)
        check_disjoint("actor", val_actors=val_actors, test_actors=test_actors)
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
        """Pairs the recordings and splits them by actor."""
        recordings = find_recordings(self.root, self.vocal)
        held_out = (self.val_actors, self.test_actors)
        train = sorted({recording.actor for recording in recordings} - {actor for part in held_out for actor in part})
        if not train:
            raise UserError(f"val_actors and test_actors leave no actor of {self.root} to train on")
        parts = {"train_actors": train, "val_actors": self.val_actors, "test_actors": self.test_actors}
        return Splits(*(Recordings(_by_actors(name, part, recordings), self.decoder) for name, part in parts.items()))


class Recording(NamedTuple):
    """An utterance: both files, the emotion from 0, the actor from 1, and the common part of the file names."""

    video: Path
    audio: Path
    emotion: int
    actor: int
    key: str


class Decoder:
    """Reads utterances, and stores the decoded ones.

    Args:
        mels: The number of mel bands.
        seconds: The length of the sound.
        frames: The number of frames.
        size: Height and width of a frame.
        cache_dir: Where to store decoded utterances; ``None`` stores none.

    Raises:
        ValueError: There are too many mel bands.
    """

    def __init__(self, mels: int, seconds: float, frames: int, size: int, cache_dir: Path | None) -> None:
        self.filters = mel_filterbank(mels)
        self.length = round(seconds * SAMPLE_RATE)
        self.frames = frames
        self.size = size
        # each setting has a folder of its own
        setting = f"mels{mels}_samples{self.length}_frames{frames}_size{size}"
        self.folder = None if cache_dir is None else cache_dir / setting

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
            pass  # the file is missing or damaged, and is written below
        audio, video = self._decode(recording)
        with atomic_write(path) as draft:
            np.savez(draft, audio=audio, video=video, sizes=sizes)
        return audio, video

    def _decode(self, recording: Recording) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        sound = middle(read_wav(recording.audio), self.length)
        return log_mel(sound, self.filters), read_frames(recording.video, self.frames, self.size)


class Recordings(SeededDataset):
    """A split: ``audio``, ``video``, ``target`` and ``index``.

    A plain position gives the utterance without augmentation, a
    :class:`~datamodules.serving.sampling.SeededIndex` gives it with the flip of its seed.

    Args:
        recordings: One entry an utterance.
        decoder: Reads them.
    """

    def __init__(self, recordings: Sequence[Recording], decoder: Decoder) -> None:
        self.recordings = recordings
        self.decoder = decoder
        self.labels = torch.tensor([recording.emotion for recording in recordings])
        self.names = [recording.key for recording in recordings]

    def __len__(self) -> int:
        return len(self.labels)

    def read_batch(self, positions: NDArray[np.int64], seeds: Sequence[int]) -> Batch:
        """Reads the utterances and flips their videos."""
        recordings = [self.recordings[position] for position in positions]
        audio, video = map(np.stack, zip(*map(self.decoder.read, recordings), strict=True))
        if seeds:
            numbers = uniform_numbers([[seed] for seed in seeds], 1)[:, 0]
            video = flip_where(numbers, video.reshape(len(video), -1, *video.shape[-2:])).reshape(video.shape)
        return {
            "audio": torch.from_numpy(audio)[:, None],
            "video": pixels_to_floats(torch.from_numpy(np.ascontiguousarray(video.swapaxes(1, 2)))),
            "target": self.labels[positions],
        }


def find_recordings(root: Path, vocal: Vocal = "speech") -> list[Recording]:
    """All utterances below a folder, sorted by the fields of their names.

    Args:
        root: The folder.
        vocal: ``speech``, ``song`` or ``all``.

    Raises:
        ValueError: A file name lacks the seven fields, or a recording exists twice.
        FileNotFoundError: There is no recording, or one has no partner.
    """
    if not root.is_dir():
        raise UserFileNotFoundError(f"root {root} is not a folder")
    sounds, videos_only, videos_with_sound = (_find(root, modality, vocal) for modality in ("03", "02", "01"))
    videos = videos_with_sound | videos_only
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


def _find(root: Path, modality: str, vocal: Vocal) -> dict[str, Path]:
    """The files of a modality, by the other six fields of their names."""
    found: dict[str, Path] = {}
    for path in sorted(map(Path, walk_files(root, (".wav" if modality == "03" else ".mp4",)).values())):
        if not NAME_PATTERN.fullmatch(path.stem):
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


def _by_actors(name: str, actors: Sequence[int], recordings: Sequence[Recording]) -> list[Recording]:
    recorded = {recording.actor for recording in recordings}
    for actor in actors:
        if actor not in recorded:
            raise UserError(f"{name} has actor {actor}, but there is no recording of this actor")
    return [recording for recording in recordings if recording.actor in actors]
