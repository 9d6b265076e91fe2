"""Street scenes that need no download: each is rendered when it is read."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np

from datamodules.frames import FrameDataModule
from datamodules.reading.frame import Frame
from datamodules.scenes.rendering import Canvas
from datamodules.scenes.street import CLASSES, SKY, Street, place_camera
from datamodules.scenes.street_looks import Looks
from datamodules.serving.datasets import SplitName
from distill.checks import check_at_least, check_share


class DrivingScenes(FrameDataModule):
    """Driving scenes, rendered in numpy, with exact depth and labels.

    A scene is a bending street of two to four lanes with sidewalks, buildings, trees, poles, signs, cars and people. A
    pinhole camera sees it; its height, pitch and focal length differ a little between scenes (stereo baseline 0.54 m).
    Light, shadows, haze and the sensor's noise differ too. The classes are:

    - ``road``, with its repairs; ``lane mark``, lines and zebra crossings; ``sidewalk``; ``terrain``, all other ground.
      These four lie in one plane, so depth does not distinguish them;
    - ``building``, with the pictures on its walls; ``tree``, trunks, crowns and bushes; ``pole``; ``sign``, the plate;
      ``car``, vans included; ``person``;
    - ``sky``. Its depth is 0, because a sensor measures none there. All other pixels have a depth, the ground up to the
      horizon.

    Colours are ambiguous, and depth is not: an object may have the material of the road, sidewalk, grass, leaves, walls
    or sky of its scene; walls show life-size silhouettes of people, cars, trees and signs; patches of these materials
    lie on the ground. The image still shows outlines, shading, shadows, perspective and the places of objects, so that
    a network can learn from the image alone. ``docs/data.md`` shows how much the depth adds.

    The seed, the split and the scene's number in the split fix a scene. It does not depend on the sizes of the splits,
    the number of workers or the image size, and no scene is in two splits. A stored response is named by seed,
    ambiguity, split and number, as ``seed_0_ambiguity_0.3/train/000012.png``.

    Args:
        n_train: The number of scenes to train on.
        n_val: The number of scenes to validate on.
        n_test: The number of scenes to test on.
        ambiguity: The probability, from 0 to 1, that an object has a material of its scene instead of one that is
            typical of its class, and that a wall shows a silhouette. It changes colours only, never depth or target.
        size: ``(H, W)`` of the rendered images.
        cache: Whether rendered frames stay in the memory of each process (8 bytes a pixel, 0.4 MB a frame at
            128 x 416).
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
        check_at_least(1, n_train=n_train, n_val=n_val, n_test=n_test)
        check_share(ambiguity=ambiguity)
        self.n_train, self.n_val, self.n_test = n_train, n_val, n_test
        self.ambiguity = ambiguity
        self.render_size = size[0], size[1]
        self.cache = cache

    def make_frames(self) -> tuple[RenderedFrames, RenderedFrames, RenderedFrames]:
        """Scenes 0, 1, 2 and so on of three series, which share no scene."""
        train, val, test = (
            RenderedFrames(self.seed, split, count, self.render_size, self.ambiguity, self.cache)
            for split, count in enumerate((self.n_train, self.n_val, self.n_test))
        )
        return train, val, test


class RenderedFrames:
    """The scenes of one split by number, each rendered when it is first read.

    Args:
        seed: The data module's.
        split: 0, 1 or 2.
        count: The number of scenes.
        size: ``(H, W)``.
        ambiguity: As in :class:`DrivingScenes`.
        cache: Whether frames stay in memory.
    """

    def __init__(self, seed: int, split: int, count: int, size: tuple[int, int], ambiguity: float, cache: bool) -> None:
        self.seed, self.split, self.count = seed, split, count
        self.size = size
        self.ambiguity = ambiguity
        self.cache = cache
        # all that a scene depends on, except its size, so that a stored response fits no other scene
        series = f"seed_{seed}_ambiguity_{float(ambiguity)}/{get_args(SplitName)[split]}"
        self.names = [f"{series}/{number:06d}" for number in range(count)]
        self._rendered: dict[int, Frame] = {}

    def __len__(self) -> int:
        return self.count

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of every scene."""
        return [self.size] * self.count

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
    """Renders one scene.

    Its objects do not depend on the size, and their places depend neither on the size nor on the ambiguity.

    Args:
        key: Non-negative numbers that identify the scene.
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
