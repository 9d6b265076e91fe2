"""Colours and textures of the rendered streets."""

from __future__ import annotations

import math
from collections.abc import Sequence

from numpy.random import Generator

from datamodules.scenes.rendering import Colour, Material, Weather

Look = tuple[Material, Material, Material]

SILHOUETTES = {"car": (4.2, 2.0), "person": (1.7, 2.0), "tree": (2.4, 3.0), "sign": (1.5, 2.5)}
"""The pictures on walls: width and height in metres by texture; they are about life-size."""


class Looks:
    """The materials of the objects of one scene.

    A scene has shared materials: those of the road, the sidewalk, the terrain, the foliage, three walls and the sky. An
    object has a material that is typical of its class, or, with the probability ``ambiguity``, a shared one. It may
    then look like the objects behind it.

    Args:
        rng: Draws the materials.
        ambiguity: The probability of a shared material, from 0 to 1.
    """

    def __init__(self, rng: Generator, ambiguity: float) -> None:
        self._rng = rng
        self._ambiguity = ambiguity
        self.road = self._grey(0.2, 0.5, "grains", 5.0)
        self.sidewalk = self._either(self._grey(0.4, 0.7, "slabs", 4.0), [self.road])
        self.terrain = self._either(self._green("grains"), [self.road, self.sidewalk])
        self.foliage = self._green("leaves")
        self.walls = [self._wall() for _ in range(3)]
        self.sky = self._sky()
        self.shared = [self.road, self.sidewalk, self.terrain, self.foliage, *self.walls, self.sky]

    def weather(self) -> Weather:
        """The light and the air."""
        elevation, azimuth = self._uniform(0.4, 1.2), self._uniform(-math.pi, math.pi)
        level = self._uniform(0.6, 0.9)
        return Weather(
            sun=(math.cos(elevation) * math.sin(azimuth), math.sin(elevation), math.cos(elevation) * math.cos(azimuth)),
            ambient=self._uniform(0.4, 0.9),
            haze=(level, level * self._uniform(0.98, 1.02), level * self._uniform(0.98, 1.08)),
            visibility=math.exp(self._uniform(math.log(60), math.log(400))),
            gain=self._uniform(0.7, 1.15),
            noise=self._uniform(0.01, 0.05),
        )

    def lane_mark(self) -> Material:
        """Worn white or yellow paint."""
        level = self._uniform(0.7, 0.9)
        blue = level * (0.6 if self._chance(0.3) else 1.0)
        return Material((level, level, blue), (0.5, 0.5, 0.5), "leaves", 3.0)

    def patch(self) -> Material:
        """A patch on the ground."""
        return self._any(self.shared)

    def building(self) -> Look:
        """Side walls, end walls and roof."""
        wall = self._either(self.walls[self._below(3)] if self._chance(0.5) else self._wall(), self.shared)
        return wall, wall, self._grey(0.2, 0.5, "plain", 4.0)

    def poster(self, wall: Material, shape: str) -> Material:
        """A picture on a wall: an ambiguous one shows a silhouette, the others show clouds."""
        if self._chance(self._ambiguity):
            return Material(wall.first, self._any(self.shared).second, shape, None)
        return Material(self._near((0.8, 0.8, 0.8), 0.15), wall.first, "clouds", None)

    def tree(self) -> tuple[Material, Material]:
        """Leaves and trunk."""
        leaves = self._either(self.foliage if self._chance(0.6) else self._green("leaves"), self.shared)
        return leaves, self._either(Material((0.3, 0.22, 0.15), (0.2, 0.14, 0.1), "grains", 1.0), self.shared)

    def pole(self) -> Material:
        """Metal."""
        return self._either(self._grey(0.25, 0.6, "plain", 2.0), self.shared)

    def sign(self) -> Material:
        """A plate."""
        own = self._one_of([(0.8, 0.1, 0.1), (0.1, 0.2, 0.7), (0.9, 0.8, 0.1), (0.9, 0.9, 0.9)])
        other = self._one_of([(0.95, 0.95, 0.95), (0.1, 0.1, 0.1)])
        return self._either(Material(own, other, "car cabin", None), self.shared)

    def car(self) -> tuple[Look, Look]:
        """Sides, ends and tops of body and cabin; half of the ambiguous cars have no wheels and windows."""
        own = self._one_of([(0.85, 0.85, 0.85), (0.1, 0.1, 0.12), (0.5, 0.5, 0.52), (0.7, 0.1, 0.1), (0.1, 0.2, 0.5)])
        if self._chance(self._ambiguity):
            shared = self._any(self.shared)
            if self._chance(0.5):
                return (shared,) * 3, (shared,) * 3
            own = shared.first
        paint = Material(own, own, "plain", 2.0)
        body = Material(own, (0.06, 0.06, 0.07), "car body", None)
        cabin = Material(own, self._near((0.15, 0.18, 0.2)), "car cabin", None)
        return (body, body, paint), (cabin, cabin, paint)

    def person(self) -> Look:
        """Head, coat and trousers."""
        if self._chance(self._ambiguity):
            return (self._any(self.shared),) * 3
        skin, coat, trousers = (
            Material(colour, colour, "plain", 2.0)
            for colour in (self._near((0.65, 0.45, 0.35), 0.2), *(self._near((0.4, 0.4, 0.4), 0.35) for _ in range(2)))
        )
        return skin, coat, trousers

    def _either(self, own: Material, shared: Sequence[Material]) -> Material:
        return self._any(shared) if self._chance(self._ambiguity) else own

    def _any(self, materials: Sequence[Material]) -> Material:
        material = materials[self._below(len(materials))]
        return material._replace(first=self._near(material.first), second=self._near(material.second))

    def _grey(self, low: float, high: float, texture: str, size: float) -> Material:
        level = self._uniform(low, high)
        return Material(self._near((level,) * 3, 0.03), self._near((0.75 * level,) * 3, 0.02), texture, size)

    def _green(self, texture: str) -> Material:
        red, green = self._uniform(0.17, 0.45), self._uniform(0.3, 0.45)
        return Material((red / 2, green / 2, 0.09), (red, green, 0.17), texture, 4.0)

    def _wall(self) -> Material:
        wall = self._one_of(
            [(0.6, 0.35, 0.28), (0.75, 0.68, 0.55), (0.55, 0.55, 0.55), (0.85, 0.85, 0.82), (0.55, 0.65, 0.75)]
        )
        kind = self._below(3)
        if kind == 0:
            return Material(wall, self._near((0.7, 0.68, 0.65)), "bricks", 3.0)
        if kind == 1:
            return Material(wall, self._near((0.25, 0.3, 0.35), 0.1), "windows", self._uniform(7, 11))
        return Material(wall, self._near(wall, 0.1), "clouds", 8.0)

    def _sky(self) -> Material:
        if self._chance(0.4):
            return Material((0.35, 0.55, 0.85), (0.85, 0.87, 0.9), "clouds", 12.0)
        level = self._uniform(0.5, 0.85)
        return Material((level,) * 3, self._near((0.9 * level,) * 3), "clouds", 12.0)

    def _one_of(self, colours: Sequence[Colour]) -> Colour:
        return self._near(colours[self._below(len(colours))])

    def _near(self, colour: Colour, by: float = 0.04) -> Colour:
        shifts = self._rng.uniform(-by, by, 3).tolist()
        r, g, b = (min(max(channel + shift, 0.02), 0.98) for channel, shift in zip(colour, shifts, strict=True))
        return r, g, b

    def _uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self._rng.random()

    def _chance(self, probability: float) -> bool:
        return self._rng.random() < probability

    def _below(self, count: int) -> int:
        return int(self._rng.random() * count)
