"""The data of another data module, with some features masked (NTDH, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.base import PairedDataModule
from datamodules.serving.datasets import Splits
from distill.checks import check_finite, check_option, check_share
from distill.errors import UserError, UserFileNotFoundError
from distill.outputs import Batch

MaskMode = Literal["true", "false", "random"]


class MaskedFeatures(PairedDataModule):
    """The batches of another data module, with some features of the teacher's modalities replaced by ``fill``.

    Source: "Non-target Divergence Hypothesis" (NTDH, Chen et al.), Algorithm 1, Figs. 8 to 10, Tables II and III. A
    file ``salience.npz``, which a fit of :class:`~distill.FeatureMask` writes, gives each feature its salience. Of the
    D features of all modalities in the file, ``round(ratio * D)`` are masked, the same ones in all splits. All else,
    loaders included, is that of the other data module. A modality that teacher and student share is masked for both.

    Args:
        data: The data module; with its own ``batch_size`` and ``num_workers``.
        salience: The file; not needed where the ratio is 0.
        ratio: The share of the features to mask, in [0, 1]; the papers take 0.1 to 0.9.
        mode: ``true`` masks the features with the highest salience. Its two controls are ``false``, which masks those
            with the lowest, and ``random``, which masks any.
        modalities: The modalities to mask; ``None`` masks all that are in the file.
        fill: The value of a masked feature.
        seed: Fixes the random mask.

    Raises:
        ValueError: An argument is out of its range. From ``setup``: the file is damaged, or is for other features than
            these data have.
        FileNotFoundError: From ``setup``: the file does not exist.
    """

    def __init__(
        self,
        data: PairedDataModule,
        salience: str | Path | None = None,
        ratio: float = 0.0,
        mode: MaskMode = "true",
        modalities: Sequence[str] | None = None,
        fill: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(seed, data.batch_size, data.num_workers, data.predict_on)
        check_share(ratio=ratio)
        check_finite(fill=fill)
        check_option("mode", mode, get_args(MaskMode))
        if ratio and salience is None:
            raise UserError(f"ratio={ratio} needs the salience of the features, a file that FeatureMask writes")
        self.data = data
        self.salience = None if salience is None else Path(salience)
        self.ratio = ratio
        self.mode = mode
        self.masked_modalities = modalities
        self.fill = fill
        self.masks: dict[str, Tensor] = {}

    @property
    def num_classes(self) -> int | None:
        """Those of the data."""
        return self.data.num_classes

    @property
    def modalities(self) -> tuple[str, ...]:
        """Those of the data."""
        return self.data.modalities

    @property
    def fixed_modalities(self) -> tuple[str, ...]:
        """Those of the data."""
        return self.data.fixed_modalities

    def make_splits(self) -> Splits:
        """The data sets of the data; the loaders mask their batches."""
        return self.data.splits

    def setup(self, stage: str | None = None) -> None:
        """Sets up the data, makes the masks, and checks that they fit a sample."""
        self.data.trainer = self.trainer
        self.data.setup(stage)
        super().setup(stage)
        if self.ratio and self.salience is not None and not self.masks:
            salience = read_salience(self.salience, self.masked_modalities)
            self._check(salience, self.splits.train[0])
            self.masks = feature_masks(salience, self.ratio, self.mode, self.seed)

    def train_dataloader(self) -> DataLoader[Batch]:
        """The data's, masked."""
        return self._masked(self.data.train_dataloader())

    def val_dataloader(self) -> DataLoader[Batch]:
        """The data's, masked."""
        return self._masked(self.data.val_dataloader())

    def test_dataloader(self) -> DataLoader[Batch]:
        """The data's, masked."""
        return self._masked(self.data.test_dataloader())

    def predict_dataloader(self) -> DataLoader[Batch]:
        """The data's, masked."""
        return self._masked(self.data.predict_dataloader())

    def prepare_data(self) -> None:
        """Prepares the data."""
        self.data.prepare_data()

    def predict_only(self, positions: Sequence[int] | None) -> None:
        """Limits ``predict`` as the data do."""
        self.data.predict_only(positions)

    def __getattr__(self, name: str) -> Any:
        """Any other attribute of the data, such as ``class_names``."""
        if name.startswith("_") or "data" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.data, name)

    def _masked(self, loader: DataLoader[Batch]) -> DataLoader[Batch]:
        loader.collate_fn = partial(_masked_batch, collate=loader.collate_fn, masks=self.masks, fill=self.fill)
        return loader

    def _check(self, salience: Mapping[str, NDArray[np.floating]], sample: Batch) -> None:
        for name, values in salience.items():
            if name not in sample:
                raise UserError(
                    f"{self.salience} has the salience of {name!r}, but {type(self.data).__name__} has the modalities "
                    f"{', '.join(map(repr, self.modalities))}"
                )
            size = tuple(sample[name].shape if sample[name].ndim == 1 else sample[name].shape[1:])
            if size != values.shape:
                raise UserError(
                    f"{self.salience} is for features of shape {values.shape} of {name!r}, but those of "
                    f"{type(self.data).__name__} have the shape {size}"
                )


def feature_masks(
    salience: Mapping[str, NDArray[np.floating]], ratio: float, mode: MaskMode, seed: int = 0
) -> dict[str, Tensor]:
    """The masks of ``round(ratio * D)`` of all D features; ties in salience are broken by position.

    Args:
        salience: By modality, in the shape of its features.
        ratio: The share to mask, in [0, 1].
        mode: ``true`` masks the highest salience, ``false`` the lowest, ``random`` any features.
        seed: Fixes the random mask.

    Returns:
        By modality, in the same shapes; true where a feature is masked.
    """
    flat = np.concatenate([values.ravel() for values in salience.values()])
    order = {
        "true": np.argsort(-flat, kind="stable"),
        "false": np.argsort(flat, kind="stable"),
        "random": np.random.default_rng(seed).permutation(len(flat)),
    }[mode]
    masked = np.zeros(len(flat), dtype=bool)
    masked[order[: round(ratio * len(flat))]] = True
    ends = np.cumsum([values.size for values in salience.values()])[:-1]
    parts = zip(salience.items(), np.split(masked, ends), strict=True)
    return {name: torch.from_numpy(part.reshape(values.shape)) for (name, values), part in parts}


def _masked_batch(samples: Any, *, collate: Callable[[Any], Batch], masks: dict[str, Tensor], fill: float) -> Batch:
    batch = collate(samples)
    return batch | {name: batch[name].masked_fill(mask, fill) for name, mask in masks.items()}


def read_salience(path: Path, modalities: Sequence[str] | None = None) -> dict[str, NDArray[np.floating]]:
    """Reads a ``salience.npz``: by modality, in the shape of its features.

    Args:
        path: The file.
        modalities: The modalities to read; ``None`` reads all.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged, or lacks a modality.
    """
    if not path.is_file():
        raise UserFileNotFoundError(f"there is no salience file {path}: a fit of FeatureMask writes it")
    try:
        with np.load(path, allow_pickle=False) as file:
            salience = {name: file[name] for name in file.files}
    except (BadZipFile, EOFError, OSError, ValueError, AttributeError):
        salience = {}
    if not salience:
        raise UserError(f"{path} is no whole salience file, an npz with one array for each modality")
    lacking = [name for name in modalities or () if name not in salience]
    if lacking:
        raise UserError(f"{path} has no salience of {lacking[0]!r}; it has {', '.join(map(repr, salience))}")
    return {name: salience[name] for name in modalities or salience}
