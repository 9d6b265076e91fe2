"""MRI with missing sequences: brain tumours of the BraTS challenges."""

from __future__ import annotations

import copy
import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray

from datamodules.reading.arrays import Floats
from datamodules.reading.brats import (
    OTHER_LABELS,
    PALETTE,
    RELEASES,
    SEQUENCES,
    Case,
    Missing,
    ReleaseYear,
    check_volumes,
    find_cases,
)
from datamodules.reading.nifti import VolumeHeader, nifti_bytes, read_label_volume, read_volume
from datamodules.seeded import SeededDataModule
from datamodules.serving.datasets import Splits
from datamodules.serving.sampling import SeededDataset, uniform_numbers
from datamodules.serving.volumes import (
    IGNORED,
    MIDDLE,
    RANDOM_NUMBERS,
    Size,
    cut,
    flipped,
    padded_size,
    patch_start,
    z_normalized,
)
from distill.checks import check_at_least, check_option, check_share
from distill.errors import UserError
from distill.outputs import Batch


class MissingModalityMRI(SeededDataModule):
    """Four sequences of MRI for the teacher, and one or some of them for the student, with segmented brain tumours.

    Source: the BraTS challenges (Menze et al., IEEE TMI 2015; Baid et al., arXiv 2107.02314, 2021; de Verdier et al.,
    arXiv 2405.18368, 2024): skull-stripped volumes of 1 mm, 240 x 240 x 155 voxels before 2024, the sequences of a case
    registered to each other. Data of your own in this layout are read as well.

    - ``t1n``, ``t1c``, ``t2w``, ``t2f`` ``(N, 1, D, H, W)``: T1, T1 after contrast agent, T2 and FLAIR, each
      normalised to mean 0 and standard deviation 1 over its voxels other than 0, which are the brain;
    - ``target`` ``(N, D, H, W)``: 0 background, 1 necrotic core (NCR), 2 oedema (ED), 3 enhancing tumour (ET), with
      release 2024 also 4 resection cavity (RC); 255, which is ignored, where padding was added;
    - ``name``: the names of the cases, a list;
    - ``<sequence>_present`` ``(N,)``, with ``missing: zeros``: False where the case lacks the sequence, which is 0.

    D, H and W are the third, second and first axis of the files. The root holds, at any depth, one folder for each
    case::

        root/BraTS-GLI-00000-000/BraTS-GLI-00000-000-t1n.nii.gz      and -t1c, -t2w, -t2f; .nii is read as well
        root/BraTS-GLI-00000-000/BraTS-GLI-00000-000-seg.nii.gz      labels 0, 1, 2, 3; in 2024 also 4
        root/BraTS2021_00000/BraTS2021_00000_t1.nii.gz               release 2021: _t1ce, _t2, _flair, _seg, and 4 is ET

    A split is drawn from the patients by ``seed``, or named. No patient is in two splits: the last number of a name
    such as ``BraTS-GLI-00005-100`` is a time point of the patient ``BraTS-GLI-00005``.

    Training takes a random patch of each case in every epoch, and flips it. Validation, test and ``predict`` take
    whole volumes, padded at their ends to multiples of ``divisor``, ``evaluation_batch_size`` at a time: scores are of
    whole cases, as the challenge's are. ``predict`` writes ``BraTS-GLI-00000-000.nii.gz`` with the release's labels.

    Args:
        root: Holds the folders of the cases.
        release: The year whose names and labels the files have: 2023; 2024; 2021, also for 2018 to 2020.
        val_share: The share of the patients to validate on, where ``val_cases`` is not given.
        test_share: The share of the patients to test on, where ``test_cases`` is not given.
        val_cases: The names of the cases or patients to validate on.
        test_cases: The names of the cases or patients to test on; these alone may lack a segmentation, all of them.
        patch_size: ``(D, H, W)`` of the patches to train on; ``None`` trains on whole volumes.
        tumour_share: The probability that a patch is centred on a voxel of the tumour. nnU-Net has a third.
        flips: Whether training flips each axis with probability 1/2.
        divisor: What sizes of whole volumes must be multiples of: 2 to the number of the network's strides.
        missing: What happens where a case lacks the file of a sequence: ``refuse`` is an error, ``zeros`` gives zeros
            and says so in ``<sequence>_present``.
        batch_size: Patches in a batch of training.
        evaluation_batch_size: Whole volumes in a batch of validation, test and ``predict``.
        **kwargs: Further arguments of :class:`~datamodules.seeded.SeededDataModule`.

    Raises:
        ValueError: An argument is out of its range. From ``setup``: the files of a case differ in shape or affine, the
            first segmentation of a split holds an unknown label, or the splits do not fit the cases. When a volume is
            read: a file is damaged, or holds an unknown label.
        FileNotFoundError: From ``setup``: there are no cases, or a file of a case is missing.
        ModuleNotFoundError: From ``setup``: nibabel, the extra ``nifti``, is not installed.
    """

    def __init__(
        self,
        root: str | Path,
        release: ReleaseYear = 2023,
        val_share: float = 0.1,
        test_share: float = 0.2,
        val_cases: Sequence[str] | None = None,
        test_cases: Sequence[str] | None = None,
        patch_size: tuple[int, int, int] | None = (128, 128, 128),
        tumour_share: float = 0.33,
        flips: bool = True,
        divisor: int = 16,
        missing: Missing = "refuse",
        batch_size: int | None = 2,
        evaluation_batch_size: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, **kwargs)
        check_option("release", release, get_args(ReleaseYear))
        check_option("missing", missing, get_args(Missing))
        check_share(val_share=val_share, test_share=test_share, tumour_share=tumour_share)
        check_at_least(1, divisor=divisor, evaluation_batch_size=evaluation_batch_size)
        for length in patch_size or ():
            check_at_least(1, patch_size=length)
        if patch_size is not None and len(patch_size) != 3:
            raise UserError(f"patch_size must be three numbers, depth, height and width, got {list(patch_size)}")
        self.root = Path(root)
        self.release: ReleaseYear = release
        self.val_share, self.test_share = val_share, test_share
        self.val_cases = None if val_cases is None else tuple(val_cases)
        self.test_cases = None if test_cases is None else tuple(test_cases)
        self.patch_size = None if patch_size is None else (patch_size[0], patch_size[1], patch_size[2])
        self.tumour_share = tumour_share
        self.flips = flips
        self.divisor = divisor
        self.missing: Missing = missing
        self._evaluation_batch_size = evaluation_batch_size

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the release's classes."""
        return RELEASES[self.release].class_names

    @property
    def num_classes(self) -> int:
        """Four, or five in 2024."""
        return len(self.class_names)

    @property
    def modalities(self) -> tuple[str, ...]:
        """``t1n``, ``t1c``, ``t2w`` and ``t2f``."""
        return SEQUENCES

    @property
    def fixed_modalities(self) -> tuple[str, ...]:
        """All modalities without patches and flips, else none."""
        return () if self.flips or self.patch_size else self.modalities

    @property
    def evaluation_batch_size(self) -> int:
        """Whole volumes in a batch of validation, test and ``predict``."""
        return self._evaluation_batch_size

    @property
    def palette(self) -> tuple[tuple[int, int, int], ...]:
        """The colours of the release's classes, RGB."""
        return PALETTE[: self.num_classes]

    @property
    def label_ids(self) -> tuple[int, ...]:
        """The labels of the classes in the release's segmentations."""
        return RELEASES[self.release].labels

    @property
    def predict_dataset(self) -> Volumes:
        """The split ``predict_on`` as whole volumes."""
        return cast(Volumes, super().predict_dataset).whole

    def prediction_path(self, position: int) -> str:
        """The file of a prediction, named like a submission to the challenge: ``BraTS-GLI-00000-000.nii.gz``."""
        return f"{self.predict_dataset.names[position]}.nii.gz"

    def write_prediction(self, path: Path, classes: NDArray[np.int64], position: int) -> None:
        """Writes the release's labels of a case to predict on, with the shape and the affine of its files.

        Args:
            path: The file.
            classes: The predicted classes of the padded volume, ``(D, H, W)``; -1 without a prediction, which becomes
                background.
            position: Of the case in its split.

        Raises:
            ValueError: The prediction is smaller than the volume.
        """
        volume = self.predict_dataset.volumes[position]
        part = classes[tuple(map(slice, volume.shape))]
        if part.shape != volume.shape:
            raise UserError(
                f"the prediction for {volume.case.name} has the shape {classes.shape}, less than the volume's "
                f"{volume.shape}: the network must return a class for each voxel"
            )
        # class -1 takes the last number
        labels = np.array([*self.label_ids, 0], np.uint8)[part]
        # no time of writing in the file: the same prediction gives the same bytes
        path.write_bytes(gzip.compress(nifti_bytes(labels, volume.header.affine), mtime=0))

    def make_splits(self) -> Splits:
        """Finds the cases, splits them by patient, and checks the headers of all files."""
        cases = find_cases(self.root, self.release, self.missing)
        parts = self._split(cases)
        self._check_labelled(*parts)
        train, val, test = (list(map(Volume, part, check_volumes(part))) for part in parts)
        splits = self._volumes(train), self._volumes(val).whole, self._volumes(test).whole
        for split in splits:
            split.check_first_labels()
        return Splits(*splits)

    def _volumes(self, volumes: Sequence[Volume]) -> Volumes:
        return Volumes(
            volumes,
            self.release,
            self.patch_size,
            self.tumour_share,
            self.flips,
            self.divisor,
            present=self.missing == "zeros",
        )

    def _split(self, cases: Sequence[Case]) -> tuple[list[Case], list[Case], list[Case]]:
        held_out = {
            split: None if names is None else _named(f"{split}_cases", names, cases)
            for split, names in (("val", self.val_cases), ("test", self.test_cases))
        }
        both = {case.patient for case in held_out["val"] or ()} & {case.patient for case in held_out["test"] or ()}
        if both:
            raise UserError(f"patient {min(both)} is in val_cases and in test_cases")
        taken = {case.patient: split for split, part in held_out.items() for case in part or ()}
        # a name's split does not depend on which cases are named
        patients = sorted({case.patient for case in cases})
        free = [patients[i] for i in np.random.default_rng(self.seed).permutation(len(patients))]
        free = [patient for patient in free if patient not in taken]
        for split, share in (("val", self.val_share), ("test", self.test_share)):
            if held_out[split] is None:
                count = max(1, round(share * len(patients)))
                taken |= dict.fromkeys(free[:count], split)
                free = free[count:]
        parts: dict[str, list[Case]] = {"train": [], "val": [], "test": []}
        for case in cases:
            parts[taken.get(case.patient, "train")].append(case)
        for split, named in held_out.items():
            extra = [case for case in parts[split] if named is not None and case not in named]
            if extra:
                raise UserError(
                    f"{split}_cases has a case of the patient {extra[0].patient}, but not {extra[0].name}, and no "
                    f"patient can be in two splits: name {extra[0].patient}, which means all cases of the patient"
                )
        empty = next((split for split, part in parts.items() if not part), None)
        if empty is not None:
            raise UserError(f"no case is left for {empty}: {self.root} holds {len(patients)} patients")
        return parts["train"], parts["val"], parts["test"]

    def _check_labelled(self, *parts: Sequence[Case]) -> None:
        for split, part in zip(("train", "val", "test"), parts, strict=True):
            unlabelled = [case for case in part if case.segmentation is None]
            if unlabelled and (split != "test" or len(unlabelled) < len(part)):
                raise UserError(
                    f"{len(unlabelled)} of the {len(part)} cases to {split} on have no segmentation, the first is "
                    f"{unlabelled[0].name}: only test_cases may lack it, all of them"
                )


class Volume(NamedTuple):
    """A case and the header of its files."""

    case: Case
    header: VolumeHeader

    @property
    def shape(self) -> Size:
        """``(D, H, W)``: the file's axes in reverse."""
        width, height, depth = self.header.shape
        return depth, height, width


class Volumes(SeededDataset):
    """A split: the sequences, ``target``, ``name`` and ``index``, and ``<sequence>_present`` if ``present``.

    A :class:`~datamodules.serving.sampling.SeededIndex` gives the patch and the flips of its seed, a plain position the
    patch in the middle. Without ``patch_size``, both give the whole volume, padded.

    Args:
        volumes: One entry a case.
        release: The year that says which label is which class.
        patch_size: As in :class:`MissingModalityMRI`.
        tumour_share: As in :class:`MissingModalityMRI`.
        flips: As in :class:`MissingModalityMRI`.
        divisor: As in :class:`MissingModalityMRI`.
        present: Whether a batch says which sequences the cases have.
    """

    def __init__(
        self,
        volumes: Sequence[Volume],
        release: ReleaseYear,
        patch_size: Size | None,
        tumour_share: float,
        flips: bool,
        divisor: int,
        present: bool,
    ) -> None:
        self.volumes = volumes
        self.names = [volume.case.name for volume in volumes]
        self.labels = RELEASES[release].labels
        self.patch_size = patch_size
        self.tumour_share = tumour_share
        self.flips = flips
        self.divisor = divisor
        self.present = present

    def __len__(self) -> int:
        return len(self.volumes)

    @property
    def whole(self) -> Volumes:
        """The same cases as whole volumes."""
        volumes = copy.copy(self)
        volumes.patch_size = None
        return volumes

    def check_first_labels(self) -> None:
        """Reads the first segmentation: all of them would take minutes.

        Raises:
            ValueError: It holds an unknown label.
        """
        if self.volumes:
            self._target(self.volumes[0].case)

    def read_batch(self, positions: NDArray[np.int64], seeds: Sequence[int]) -> Batch:
        """Reads the volumes, and cuts and flips their patches."""
        volumes = [self.volumes[position] for position in positions]
        numbers = uniform_numbers([[seed] for seed in seeds], RANDOM_NUMBERS) if seeds else [None] * len(volumes)
        samples = [self._read(*pair) for pair in zip(volumes, numbers, strict=True)]
        shapes = {sample["t1n"].shape: volume.case.name for sample, volume in zip(samples, volumes, strict=True)}
        if len(shapes) > 1:
            sizes = ", ".join(f"{shape} of {name}" for shape, name in shapes.items())
            raise UserError(
                f"the volumes of a batch must have one shape, got {sizes}: give evaluation_batch_size 1, and to train "
                "patch_size, or batch_size 1"
            )
        batch: Batch = {name: torch.from_numpy(np.stack([sample[name] for sample in samples])) for name in samples[0]}
        for name in SEQUENCES:
            batch[name] = batch[name][:, None]
            if self.present:
                batch[f"{name}_present"] = torch.tensor([name in volume.case.files for volume in volumes])
        return {**batch, "name": [self.names[position] for position in positions]}

    def _read(self, volume: Volume, numbers: NDArray[np.float32] | None) -> dict[str, NDArray[Any]]:
        """The sequences and ``target`` of a case, each ``(D, H, W)``."""
        case = volume.case
        arrays: dict[str, NDArray[Any]] = {
            name: _normalized(case.files[name]) if name in case.files else np.zeros(volume.shape, np.float32)
            for name in SEQUENCES
        }
        target = self._target(case)
        if target is not None:
            arrays["target"] = target
        start: Size = (0, 0, 0)
        size = self.patch_size or padded_size(volume.shape, self.divisor)
        if self.patch_size is not None:
            share = 0 if numbers is None else self.tumour_share
            start = patch_start(target, volume.shape, size, share, MIDDLE if numbers is None else numbers)
        parts = {name: cut(array, start, size, IGNORED if name == "target" else 0) for name, array in arrays.items()}
        if numbers is not None and self.flips:
            parts = {name: flipped(part, numbers) for name, part in parts.items()}
        return parts

    def _target(self, case: Case) -> NDArray[np.int64] | None:
        return None if case.segmentation is None else read_label_volume(case.segmentation, self.labels, OTHER_LABELS)


def _normalized(path: Path) -> Floats:
    """A sequence, normalised; warns if it is empty."""
    values = read_volume(path)
    if not values.any():
        rank_zero_warn(f"{path} holds zeros only, as if the sequence were missing")
    return z_normalized(values)


def _named(argument: str, names: Sequence[str], cases: Sequence[Case]) -> list[Case]:
    """The cases that have one of these names, or whose patient has."""
    known = {case.name for case in cases} | {case.patient for case in cases}
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise UserError(
            f"{argument} must name one or more of the {len(cases)} cases or their patients, got {unknown or names!r}"
        )
    return [case for case in cases if case.name in names or case.patient in names]
