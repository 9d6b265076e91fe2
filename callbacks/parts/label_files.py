"""Files of the classes of each pixel, voxel or point of a sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from datamodules.serving.frame_pairs import Extent
from distill.atomic import atomic_write
from distill.errors import UserError
from distill.tasks.parts.resizing import resized

Ids = Literal["classes", "official"]
NOT_PREDICTED = -1
"""The class that a data module's own format gets for positions without a prediction."""
NO_LABEL = 255
"""In files of several labels, where there is no prediction."""
UNLABELED = 0
"""The official id of pixels and points without a prediction, in all data sets here."""


class LabelFiles:
    """Writes the files of a sample whose pixels, voxels or points have a class each.

    Args:
        folder: The folder of all samples.
        data: The data module; it may have a ``palette``, the official ``label_ids`` of the classes,
            ``prediction_extent``, and a format of its own: ``prediction_path(position)`` returns the file below the
            folder, and ``write_prediction(path, classes, position)`` writes it, with -1 where there is no prediction.
            With several labels a position it gets 0 or 1 of each class, ``(C, *)``, and -1 in the same places.
        ids: Which numbers the files hold.
        colours: Whether to write a second picture in the colours of the palette.
        probabilities: Whether to write the probabilities of all classes.

    Raises:
        ValueError: The data module has no official ids or no palette.
    """

    def __init__(self, folder: Path, data: Any, ids: Ids, *, colours: bool, probabilities: bool) -> None:
        self.folder = folder
        self.data = data
        self.ids = ids
        self.label_ids: Sequence[int] = getattr(data, "label_ids", ()) if ids == "official" else ()
        self.palette: Sequence[tuple[int, int, int]] = getattr(data, "palette", ()) if colours else ()
        self.probabilities = probabilities
        if ids == "official" and not self.label_ids:
            raise UserError(f"{type(data).__name__} has no label_ids, so there are no official ids: use ids classes")
        if colours and not self.palette:
            raise UserError(f"{type(data).__name__} has no palette, so classes have no colours: use colours false")

    def suffixes(self, spatial_dims: int, *, exclusive: bool) -> list[str]:
        """What the names of a sample's files end with; without the file in the data module's own format."""
        is_image = spatial_dims == 2 and exclusive
        suffixes = [] if self._own_path(0) is not None else [".png" if is_image else ".npy"]
        if self.palette and is_image:
            suffixes.append("_color.png")
        return [*suffixes, "_probabilities.npz"] if self.probabilities else suffixes

    def paths(self, name: str, position: int | None, suffixes: Sequence[str]) -> dict[Path, str | None]:
        """The files of a sample, each with its suffix; ``None`` for the file in the data module's own format."""
        own = None if position is None else self._own_path(position)
        files: dict[Path, str | None] = {self.folder / f"{name}{suffix}": suffix for suffix in suffixes}
        return files if own is None else {self.folder / own: None, **files}

    def check_classes(self, count: int) -> None:
        """Raises a ValueError if the data module has no official id or no colour for some of the classes."""
        for attribute, values in (("label_ids", self.label_ids), ("palette", self.palette)):
            if values and len(values) < count:
                raise UserError(
                    f"{attribute} of {type(self.data).__name__} has {len(values)} entries, but the predictions have "
                    f"{count} classes"
                )

    def write(
        self,
        name: str,
        position: int | None,
        logits: Tensor,
        probabilities: Callable[[Tensor], Tensor],
        *,
        exclusive: bool,
    ) -> None:
        """Writes the files of a sample that are not there.

        Args:
            name: The name of the sample.
            position: Its position in its data set, if that is known.
            logits: ``(C, *)``; those of a frame are resized to the part of the frame that they are of, larger ones by
                averages and smaller ones bilinearly, as tasks do it for their scores.
            probabilities: Returns the probabilities of logits ``(N, C, *)``, in their shape.
            exclusive: Whether a position has the class of the highest logit, or all classes above the probability 1/2.
        """
        suffixes = self.suffixes(logits.ndim - 1, exclusive=exclusive)
        missing = {path: kind for path, kind in self.paths(name, position, suffixes).items() if not path.is_file()}
        if not missing:
            return
        shown = self._resized(logits, position)
        if exclusive:
            found, valid = shown.argmax(0), shown.amax(0) > -math.inf  # false where a logit is NaN
        else:
            found, valid = probabilities(shown[None])[0] > 0.5, ~shown.isnan()
        image = logits.ndim == 3
        classes, predicted = (self._placed(x.cpu().numpy(), position, image=image) for x in (found, valid))
        for path, kind in missing.items():
            with atomic_write(path) as draft:
                if kind == "_probabilities.npz":
                    np.savez_compressed(draft, probabilities=probabilities(logits[None])[0].half().cpu().numpy())
                elif kind == "_color.png":
                    Image.fromarray(self._painted(classes, predicted)).save(draft)
                elif kind == ".png":
                    Image.fromarray(self._as_ids(classes, predicted, len(logits))).save(draft)
                elif kind == ".npy":
                    labels = np.where(predicted, classes, NO_LABEL).astype(np.uint8)
                    np.save(draft, self._as_ids(classes, predicted, len(logits)) if exclusive else labels)
                else:
                    own = np.where(predicted, classes.astype(np.int64), NOT_PREDICTED)
                    self.data.write_prediction(draft, own, position)

    def _extent(self, position: int | None) -> Extent | None:
        find_extent = getattr(self.data, "prediction_extent", None)
        return None if position is None or find_extent is None else find_extent(position)

    def _resized(self, logits: Tensor, position: int | None) -> Tensor:
        """The logits of an image in the size of the part of the frame that they are of; others stay as they are."""
        extent = self._extent(position)
        return logits if logits.ndim != 3 or extent is None else resized(logits[None].float(), extent.shown)[0]

    def _placed(self, values: NDArray[Any], position: int | None, *, image: bool) -> NDArray[Any]:
        """The values of the predicted positions in the size of the whole sample; 0 or false for all others."""
        extent = self._extent(position)
        if not image or extent is None:
            return values
        (top, left), (height, width) = extent.corner, extent.shown
        placed = np.zeros((*values.shape[:-2], *extent.size), values.dtype)
        placed[..., top : top + height, left : left + width] = values
        return placed

    def _as_ids(self, classes: NDArray[np.int64], predicted: NDArray[np.bool_], count: int) -> NDArray[np.integer]:
        if self.ids == "official":
            ids = np.array(self.label_ids)
            kind = np.uint8 if ids.max() <= 255 else np.uint16
            return np.where(predicted, ids[classes], UNLABELED).astype(kind)
        # the largest number is none of the classes
        kind = np.uint8 if count <= 255 else np.uint16
        return np.where(predicted, classes, np.iinfo(kind).max).astype(kind)

    def _painted(self, classes: NDArray[np.int64], predicted: NDArray[np.bool_]) -> NDArray[np.uint8]:
        colours = np.array(self.palette, np.uint8)[classes]
        return np.where(predicted[..., None], colours, np.uint8(0))

    def _own_path(self, position: int) -> str | None:
        find_path = getattr(self.data, "prediction_path", None)
        return None if find_path is None else find_path(position)
