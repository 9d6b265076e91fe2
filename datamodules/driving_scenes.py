"""Street scenes that need no download: they are rendered when they are asked for."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np

from datamodules.frames import FrameDataModule
from datamodules.reading.frame import Frame
from datamodules.scenes.rendering import Canvas
from datamodules.scenes.street import CLASSES, SKY, Street, place_camera
from datamodules.scenes.street_looks import Looks
from datamodules.serving.datasets import SplitName, check_counts
from distill.errors import UserError


class DrivingScenes(FrameDataModule):
    """Driving scenes, rendered in numpy, with exact depth and labels.

    A bending street of two to four lanes, its sidewalks, and what stands along and on it, seen by a pinhole camera that
    differs a little from scene to scene in height, pitch and focal length (stereo baseline 0.54 m). Light, shadows,
    haze and the sensor's noise differ too. The classes, with their share of the pixels in percent (400 scenes):

    - ``road`` 21.7, with repairs; ``lane mark`` 1.5, lines and zebra crossings; ``sidewalk`` 4.6;
      ``terrain`` 5.5, everything else that is flat. These lie in one plane: depth does not tell them apart;
    - ``building`` 31.1, with what is painted on its walls; ``tree`` 4.0, trunks, crowns and bushes; ``pole`` 1.2;
      ``sign`` 1.4, the plate; ``car`` 11.8, vans included; ``person`` 2.1;
    - ``sky`` 15.0. Its depth is 0, as from a sensor, which measures none there. All else has a depth, the ground up to
      the horizon.

    Colour alone is made ambiguous, and depth is not: things wear the asphalt, paving, grass, foliage, walls and sky of
    their scene; walls carry life-size silhouettes of people, cars, trees and signs; patches of any of these
    lie on the ground. Outlines, shading, shadows, perspective and what stands where remain, so there is something to
    learn in the image.

    A U-Net of 16 to 128 channels (64 x 208, 300 scenes, 700 steps of AdamW, batches of 8, mean of seeds 0 and 1) has
    57.4 % mIoU on 100 validation scenes from RGB and 72.8 % from RGB and depth.

    The seed and its number in a split fix a scene: it is the same whatever the sizes of the splits, the number of
    workers and the image size, and no two splits share one. Stored responses lie under seed, ambiguity, split and
    number, as ``seed_0_ambiguity_0.3/train/000012.png``.

    Args:
        n_train: Scenes to train on.
        n_val: Scenes to validate on.
        n_test: Scenes to test on.
        ambiguity: From 0 to 1: the probability that a thing wears a material of its scene and not one typical of its
            class, and that a wall carries a silhouette. It changes colours alone, never depth or target.
        size: ``(H, W)`` to render at.
        cache: Whether rendered frames stay in memory (8 bytes a pixel, 0.4 MB a frame at 128 x 416; in every worker).
        **kwargs: Arguments of :class:`~datamodules.frames.FrameDataModule`.

    Raises:
        ValueError: An argument is out of its range.
    """

    class_names = tuple(CLASSES)
    palette = tuple(CLASSES.values())

    def __init__(
        self,
        n_train: int = 400,
        n_val: int = 100,
        n_test: int = 200,
        ambiguity: float = 0.3,
        size: tuple[int, int] = (128, 416),
        cache: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(size=size, **kwargs)
        check_counts(n_train=n_train, n_val=n_val, n_test=n_test)
        if not 0 <= ambiguity <= 1:
            raise UserError(f"ambiguity must be from 0 to 1, got {ambiguity}")
        self.n_train, self.n_val, self.n_test = n_train, n_val, n_test
        self.ambiguity = ambiguity
        self.render_size = size[0], size[1]
        self.cache = cache

    def make_frames(self) -> tuple[RenderedFrames, RenderedFrames, RenderedFrames]:
        """Scenes 0, 1, 2 and so on of three series that have none in common."""
        train, val, test = (
            RenderedFrames(self.seed, split, count, self.render_size, self.ambiguity, self.cache)
            for split, count in enumerate((self.n_train, self.n_val, self.n_test))
        )
        return train, val, test


class RenderedFrames:
    """The scenes of one split by their number, each rendered when it is first asked for.

    Args:
        seed: The data module's.
        split: 0, 1 or 2.
        count: How many scenes there are.
        size: ``(H, W)``.
        ambiguity: As in :class:`DrivingScenes`.
        cache: Whether frames stay in memory.
    """

    def __init__(self, seed: int, split: int, count: int, size: tuple[int, int], ambiguity: float, cache: bool) -> None:
        self.seed, self.split, self.count = seed, split, count
        self.size = size
        self.ambiguity = ambiguity
        self.cache = cache
        # all that decides what a scene looks like, but for its size, so that stored responses fit no other scene
        series = f"seed_{seed}_ambiguity_{float(ambiguity)}/{get_args(SplitName)[split]}"
        self.names = [f"{series}/{number:06d}" for number in range(count)]
        self._rendered: dict[int, Frame] = {}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Frame:
        if not 0 <= index < self.count:
            raise IndexError(f"scene {index} is not among the {self.count} of this split")
        if index in self._rendered:
            return self._rendered[index]
        frame = render_scene((self.seed, self.split, index), self.size, self.ambiguity)
        if self.cache:
            self._rendered[index] = frame
        return frame


def render_scene(key: tuple[int, ...], size: tuple[int, int], ambiguity: float) -> Frame:
    """Renders the scene of a key.

    What is in a scene does not depend on the size, and where it is not on the ambiguity either.

    Args:
        key: Non-negative numbers that stand for the scene.
        size: ``(H, W)``.
        ambiguity: As in :class:`DrivingScenes`.

    Returns:
        The frame; its arrays are read-only, so that a cached one stays as it is.
    """
    layout, colours, sensor = np.random.default_rng(key).spawn(3)
    camera = place_camera(size, layout)
    looks = Looks(colours, ambiguity)
    canvas = Canvas(camera, size, looks.weather(), looks.sky, SKY)
    Street(canvas, layout, looks).draw()
    image, depth, target = canvas.image(sensor), canvas.depth(), canvas.target()
    for array in (image, depth, target):
        array.setflags(write=False)
    return Frame(image, depth, target, camera)
