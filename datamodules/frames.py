"""Base of the data modules whose samples are images with depth, such as street scenes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, get_args

from datamodules.augmentation import PairedAugmentation
from datamodules.reading.frame import Frames
from datamodules.reading.responses import StoredResponses
from datamodules.seeded import SeededDataModule
from datamodules.serving.datasets import SplitName, Splits
from datamodules.serving.frame_pairs import IMAGENET_MEAN, IMAGENET_STD, Extent, FramePairs, Target
from datamodules.serving.geometry import Geometry
from distill.checks import check_at_least, check_option, check_positive


class FrameDataModule(SeededDataModule):
    """Base of the data modules of images with depth: a subclass reads the frames, and names its classes if it has any.

    A batch holds ``image``, the modalities of ``geometry``, ``target`` and ``index``:

    - ``image`` ``(N, 3, H, W)``: RGB, normalised by ImageNet's mean and standard deviation;
    - ``depth`` ``(N, 1, H, W)``: metres along the optical axis divided by ``max_depth``, at most 1; 0 where nothing was
      measured;
    - ``disparity`` ``(N, 1, H, W)``: 2 m divided by the depth, at most 1; 0 infinitely far away and where nothing was
      measured;
    - ``normal`` ``(N, 3, H, W)``: unit surface normals that face the camera, x right, y down, z forward, so from -1 to
      1; 0 where there is none (:func:`~datamodules.serving.geometry.depth_to_normals`);
    - ``hha`` ``(N, 3, H, W)``: disparity as above, height above the ground (1 is 10 m), and angle with gravity (1 is
      the ground, 1/2 a wall), from 0 to 1; 0 where nothing was measured
      (:func:`~datamodules.serving.geometry.depth_to_hha`);
    - ``target`` ``(N, H, W)``, if it is of classes: class indices, 255 where ignored; ``(N, 1, H, W)``, if it is of
      depth: metres, not limited by ``max_depth``, 0 where there is no ground truth;
    - ``teacher_prediction`` ``(N, 1, H, W)``, if ``responses`` are given: metres, 0 where there is no response.

    Args:
        geometry: The modalities to compute from the depth: ``depth``, ``disparity``, ``normal`` and ``hha``.
        target: What the student estimates, ``classes`` or ``depth``.
        responses: A folder with a teacher's stored responses to the frames, written by
            :class:`~callbacks.ResponseWriter` or another program
            (:class:`~datamodules.reading.responses.StoredResponses`). A response has the size of its frame on disk,
            after the fixed crop, or after the resizing to ``size``. ``setup`` checks that the responses of its stage
            exist.
        size: ``(H, W)`` to resize frames to; ``None`` keeps their sizes, and all frames of a batch must then have one
            size.
        max_depth: The depth in metres that is 1 in ``depth``.
        augmentation: Changes the training samples at random; ``None`` leaves them as they are.
        batch_size: Samples in a batch; ``None`` puts the whole split into one batch.
        **kwargs: Further arguments of :class:`~datamodules.seeded.SeededDataModule`.

    Raises:
        ValueError: An argument is out of its range. From ``setup``: a frame is smaller than a crop.
        FileNotFoundError: From ``setup``: a response is missing.
    """

    flat_response_unit: float | None = None
    """The metres per unit of responses with flat names, if their folder does not say it."""
    class_names: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()
    label_ids: tuple[int, ...] = ()
    """The numbers of the classes in the data set's own label files; empty if it has none."""
    normalization = {"image": (IMAGENET_MEAN, IMAGENET_STD)}
    """Mean and standard deviation of the channels by which images from 0 to 1 are normalised."""

    def __init__(
        self,
        geometry: Sequence[Geometry] = ("depth",),
        target: Target = "classes",
        responses: str | Path | None = None,
        size: tuple[int, int] | None = None,
        max_depth: float = 80.0,
        augmentation: PairedAugmentation | None = None,
        batch_size: int | None = 4,
        **kwargs: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, **kwargs)
        for name in geometry:
            check_option("geometry", name, get_args(Geometry))
        check_option("target", target, get_args(Target))
        if size is not None:
            check_at_least(1, size_height=size[0], size_width=size[1])
        check_positive(max_depth=max_depth)
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
        """``(H, W)`` of the crop of every frame: the lowest rows and the middle columns; ``None`` crops none."""
        return None

    @property
    def frame_size(self) -> tuple[int, int] | None:
        """``(H, W)`` of all frames without augmentation; ``None`` where they differ in size."""
        return self.size or self.fixed_crop

    @property
    def modalities(self) -> tuple[str, ...]:
        """``image`` and ``geometry``; a stored response is no modality, but another network's prediction."""
        return ("image", *self.geometry)

    @property
    def fixed_modalities(self) -> tuple[str, ...]:
        """All modalities without ``augmentation``, and none with it."""
        return self.modalities if self.augmentation is None else ()

    def prediction_extent(self, position: int) -> Extent:
        """The size of a frame to predict on, and the part of it that the batch shows."""
        return cast(FramePairs, self.predict_dataset).extent(position)

    @abstractmethod
    def make_frames(self) -> tuple[Frames, Frames, Frames]:
        """The frames of training, validation and test."""

    def make_splits(self) -> Splits:
        """Makes data sets of the frames; only the training frames are augmented."""
        responses = None if self.responses is None else StoredResponses(self.responses, self.flat_response_unit)

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
        """Makes the data sets of all stages on the first call, and checks crops and responses of this stage.

        Training needs a response to each frame. The other splits may have no responses at all, and their batches then
        hold no ``teacher_prediction``.
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
            pairs.check_crops()
            pairs.check_responses(required=split == "train" and stage in ("fit", None))
