"""What every data set of street scenes shares: frames of image, depth and semantics, and batches made of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import cast, get_args

from datamodules.augmentation import PairedAugmentation
from datamodules.drawn import DrawnDataModule
from datamodules.reading.frame import Frames
from datamodules.reading.responses import StoredResponses
from datamodules.serving.datasets import SplitName, Splits, check_counts
from datamodules.serving.frame_pairs import FramePairs, Target
from datamodules.serving.transforms import Geometry
from datamodules.serving.unreadable import OnError
from distill.errors import UserError


class FrameDataModule(DrawnDataModule):
    """Base of the data modules of images with depth: a subclass makes the frames, and names its classes if it has any.

    - ``image`` ``(N, 3, H, W)``: RGB, normalised by ImageNet's mean and standard deviation;
    - ``depth`` ``(N, 1, H, W)``: metres along the optical axis divided by ``max_depth``, at most 1; 0 where nothing was
      measured;
    - ``disparity`` ``(N, 1, H, W)``: 2 m divided by the depth, at most 1; 0 infinitely far away and where nothing was
      measured;
    - ``normal`` ``(N, 3, H, W)``: unit surface normals that face the camera, x right, y down, z forward, so from -1 to
      1; 0 where there is none (:func:`~datamodules.serving.transforms.depth_to_normals`);
    - ``hha`` ``(N, 3, H, W)``: disparity as above, height above the ground (1 is 10 m), angle with gravity (1 is the
      ground, 1/2 a wall), from 0 to 1; 0 where nothing was measured
      (:func:`~datamodules.serving.transforms.depth_to_hha`);
    - ``target``, if it is of classes, ``(N, H, W)``: class indices, 255 where ignored; if it is of depth,
      ``(N, 1, H, W)``: metres, which ``max_depth`` does not limit, 0 where there is no ground truth;
    - ``teacher_prediction`` ``(N, 1, H, W)``, where there are ``responses``: metres, 0 where there is no response.

    Training draws its augmentation anew for each sample and epoch: for one ``seed_everything`` the same pairs come,
    bit by bit, with any number of workers or processes and in a resumed run
    (:class:`~datamodules.serving.sampling.SeededSampler`).

    Args:
        geometry: Which modalities beside ``image`` are made, of ``depth``, ``disparity``, ``normal`` and ``hha``.
        target: What is to be estimated, ``classes`` or ``depth``.
        responses: A folder with a teacher's stored responses to the frames, as
            :class:`~callbacks.ResponseWriter` or another program has written it
            (:class:`~datamodules.reading.responses.StoredResponses`). One has the size of its frame as it lies on disk,
            or as it is after a fixed crop or the resizing to ``size``. ``setup`` asks for those that its stage needs.
        size: ``(H, W)`` that frames are resized to; ``None`` keeps them, and those of one batch must then be of one
            size.
        max_depth: The depth in metres that is 1 in ``depth``.
        augmentation: Changes the training samples at random; ``None`` leaves them as they are.
        seed: Fixes the data and the splits.
        batch_size: ``None`` trains on the full batch.
        num_workers: Processes that load data.
        predict_on: The split that ``predict`` sees, not augmented.
        on_error: Whether a damaged training file ends a fit (``raise``) or the next readable sample takes its place
            (``skip``).

    Raises:
        ValueError: An argument is out of its range.
        FileNotFoundError: From ``setup``: a response is not there.
    """

    class_names: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()

    def __init__(
        self,
        geometry: Sequence[Geometry] = ("depth",),
        target: Target = "classes",
        responses: str | Path | None = None,
        size: tuple[int, int] | None = None,
        max_depth: float = 80.0,
        augmentation: PairedAugmentation | None = None,
        seed: int = 0,
        batch_size: int | None = 4,
        num_workers: int = 0,
        predict_on: SplitName = "test",
        on_error: OnError = "raise",
    ) -> None:
        super().__init__(seed, batch_size, num_workers, predict_on, on_error)
        for name in geometry:
            if name not in get_args(Geometry):
                raise UserError(f"geometry must be of {', '.join(get_args(Geometry))}, got {name!r}")
        if target not in get_args(Target):
            raise UserError(f"target must be one of {', '.join(get_args(Target))}, got {target!r}")
        if size is not None:
            check_counts(height=size[0], width=size[1])
        if not 0 < max_depth < float("inf"):
            raise UserError(f"max_depth must be a finite number of metres above 0, got {max_depth}")
        self.geometry = tuple(geometry)
        self.target: Target = target
        self.responses = None if responses is None else Path(responses)
        self.size = None if size is None else (size[0], size[1])
        self.max_depth = max_depth
        self.augmentation = augmentation

    @property
    def num_classes(self) -> int | None:
        """How many classes the data set names; ``None`` where the target is depth."""
        return len(self.class_names) if self.target == "classes" else None

    @property
    def fixed_crop(self) -> tuple[int, int] | None:
        """``(H, W)`` of the lowest rows and middle columns that are cut out of every frame of all splits."""
        return None

    @property
    def frame_size(self) -> tuple[int, int] | None:
        """``(H, W)`` of all frames that are not augmented; ``None`` where each has its own."""
        return self.size or self.fixed_crop

    @property
    def modalities(self) -> tuple[str, ...]:
        """``image`` and the geometry asked for; a stored response is none, but the opinion of another network."""
        return ("image", *self.geometry)

    @property
    def fixed_modalities(self) -> tuple[str, ...]:
        """All of them without ``augmentation``, which changes all; else none."""
        return self.modalities if self.augmentation is None else ()

    @property
    def predict_names(self) -> Sequence[str]:
        """The names of the frames that ``predict`` sees, by position; empty in a data set that names none."""
        return cast(FramePairs, self.predict_dataset).names

    @abstractmethod
    def make_frames(self) -> tuple[Frames, Frames, Frames]:
        """The frames of training, validation and test."""

    def make_splits(self) -> Splits:
        """Pairs the frames' modalities; only those of training are augmented."""
        responses = None if self.responses is None else StoredResponses(self.responses)

        def pairs(frames: Frames, augmentation: PairedAugmentation | None = None) -> FramePairs:
            return FramePairs(
                frames,
                self.num_classes,
                self.geometry,
                self.size,
                self.max_depth,
                augmentation,
                self.fixed_crop,
                responses,
            )

        train, val, test = self.make_frames()
        return Splits(pairs(train, self.augmentation), pairs(val), pairs(test))

    def setup(self, stage: str | None = None) -> None:
        """Makes the data sets of all stages on the first call, and looks for the responses that this stage needs.

        Only training needs them: splits to evaluate on may have none at all, and then give no ``teacher_prediction``.
        """
        super().setup(stage)
        needed: dict[str | None, Sequence[SplitName]] = {
            "fit": ("train", "val"),
            "validate": ("val",),
            "test": ("test",),
            "predict": (self.predict_on,),
        }
        for split in needed.get(stage, get_args(SplitName)):
            pairs = cast(FramePairs, getattr(self.splits, split))
            pairs.check_responses(required=split == "train" and stage in ("fit", None))
