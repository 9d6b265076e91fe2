"""Stores a teacher's responses to a data set, so that students can be trained without the teacher."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from callbacks.parts.resumable_folder import ResumableFolder
from datamodules import FrameDataModule
from datamodules.reading.responses import DESCRIPTION, ResponseFormat, response_path
from distill.atomic import atomic_write
from distill.checks import check_option, check_positive
from distill.errors import UserError
from distill.teacher.fingerprint import network_fingerprint

LARGEST_UINT16 = 65535
"""The largest number in a 16-bit PNG file."""


class ResponseWriter(Callback):
    """Writes the predictions of a depth network, one file for each frame, for ``responses`` of the data modules.

    ``python train.py predict --config CONFIG --ckpt_path CHECKPOINT --data.init_args.predict_on train
    --trainer.callbacks+=ResponseWriter --trainer.callbacks.folder=FOLDER`` stores the predictions for the frames to
    train on, not augmented, as ``<folder>/<name of the frame>.png`` or ``.npz``, and describes them in
    ``<folder>/responses.json``. Several splits may share a folder.

    A response has the size of the image in the batch: that of the frame after a fixed crop and resizing. A prediction
    of another size is resized bilinearly.

    A stopped run leaves only whole files. If it is started again, it skips the frames that have a response. (A few are
    predicted again if fewer frames are left than there are processes.) Each of several processes writes its own files.
    ``Trainer.predict`` returns nothing, so that memory holds one batch only.

    Args:
        folder: The folder to write to. A folder with responses of another network or in another form is refused.
        format: ``png``, 16 bits in the unit ``metres_per_unit``, rounded; or ``npz``, compressed ``float32`` metres.
        metres_per_unit: The unit of PNG files. ``None`` takes the smallest number of whole millimetres with which 16
            bits reach the data module's ``max_depth``: 0.001 up to 65.535 m, and 0.002 for 80 m.

    Raises:
        ValueError: An argument is out of its range. In ``predict``: the folder holds other responses, the samples have
            no names, or a prediction is no depth or too large for its file.
    """

    def __init__(
        self,
        folder: str | Path,
        format: ResponseFormat = "png",  # noqa: A002
        metres_per_unit: float | None = None,
    ) -> None:
        check_option("format", format, get_args(ResponseFormat))
        check_positive(metres_per_unit=metres_per_unit)
        if metres_per_unit is not None and format == "npz":
            raise UserError(f"metres_per_unit {metres_per_unit} is for png files: npz files hold metres")
        self.folder = Path(folder)
        self.format: ResponseFormat = format
        self.metres_per_unit = metres_per_unit
        self._stored = ResumableFolder(self.folder, DESCRIPTION, "responses")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Skips the frames that have a response."""
        if stage != "predict":
            return
        data = _named_data(trainer)
        self._stored.read()  # raises an error if the folder holds other files
        names = data.sample_names
        self._stored.skip(trainer, data, names, lambda position: self._path(names[position]).is_file())

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Describes the responses in the folder, or checks that its description fits this run."""
        trainer.predict_loop.return_predictions = False  # they would fill the memory
        data = _named_data(trainer)
        self._stored.describe(
            {
                "metres_per_unit": self._unit(data),
                "format": self.format,
                "size": None if data.frame_size is None else list(data.frame_size),
                "network": network_fingerprint(getattr(pl_module, "network", pl_module)),
            }
        )

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Writes the responses to the frames of a batch."""
        data = _named_data(trainer)
        unit, names = self._unit(data), data.sample_names
        depths = _depths(outputs["prediction"], batch["image"].shape[-2:])
        for position, depth in zip(batch["index"].tolist(), depths, strict=True):
            self._write(names[position], depth, unit)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lets the data module predict on all frames again."""
        self._stored.release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Does the same as :meth:`teardown`, which Lightning does not call after a failed run."""
        self._stored.release()

    def _path(self, name: str) -> Path:
        return response_path(self.folder, name, self.format)

    def _unit(self, data: FrameDataModule) -> float:
        if self.format == "npz":
            return 1.0
        if self.metres_per_unit is not None:
            return self.metres_per_unit
        return math.ceil(1000 * data.max_depth / LARGEST_UINT16) / 1000

    def _write(self, name: str, depth: NDArray[np.float32], unit: float) -> None:
        if not (np.isfinite(depth).all() and (depth >= 0).all()):
            raise UserError(f"the prediction for {name} is no depth: it has values that are negative or not finite")
        path = self._path(name)
        if self.format == "npz":
            with atomic_write(path) as draft:
                np.savez_compressed(draft, depth=depth)
            return
        counts = np.rint(depth / np.float64(unit))
        if counts.max() > LARGEST_UINT16:
            raise UserError(
                f"the prediction for {name} reaches {depth.max():.3f} m, but 16 bits of {unit} m end at "
                f"{LARGEST_UINT16 * unit:.3f} m: give a larger metres_per_unit, or format npz"
            )
        with atomic_write(path) as draft:
            Image.fromarray(counts.astype(np.uint16)).save(draft)


def _named_data(trainer: Trainer) -> FrameDataModule:
    data = trainer.datamodule  # type: ignore[attr-defined]
    if not isinstance(data, FrameDataModule) or not data.sample_names:
        raise UserError(
            f"the samples of {type(data).__name__} have no names to store responses under: ResponseWriter needs a data "
            "module of frames on disk or DrivingScenes"
        )
    return data


def _depths(prediction: Tensor, size: tuple[int, int]) -> NDArray[np.float32]:
    """The predicted depth in metres, ``(N, H, W)``, in the size of the images."""
    if prediction.ndim != 4 or prediction.shape[1] != 1:
        raise UserError(
            f"responses are depth of the shape (N, 1, H, W), but the prediction has {tuple(prediction.shape)}"
        )
    prediction = prediction.float()
    if prediction.shape[-2:] != size:
        prediction = F.interpolate(prediction, size, mode="bilinear", align_corners=False)
    depths: NDArray[np.float32] = prediction[:, 0].cpu().numpy()
    return depths
