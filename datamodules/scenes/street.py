"""The objects of a rendered street, and their places."""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from datamodules.reading.frame import Camera
from datamodules.scenes.rendering import Array, Box, Canvas
from datamodules.scenes.street_looks import SILHOUETTES, Looks

CLASSES = {
    "road": (128, 64, 128),
    "lane mark": (255, 255, 255),
    "sidewalk": (244, 35, 232),
    "terrain": (152, 251, 152),
    "building": (70, 70, 70),
    "tree": (107, 142, 35),
    "pole": (255, 128, 0),
    "sign": (220, 220, 0),
    "car": (0, 0, 142),
    "person": (220, 20, 60),
    "sky": (70, 130, 180),
}
"""The classes in the order of their indices, with their colours."""

ROAD, LANE_MARK, SIDEWALK, TERRAIN, BUILDING, TREE, POLE, SIGN, CAR, PERSON, SKY = range(len(CLASSES))

BUILT_LENGTH = 110.0  # metres ahead with buildings


def place_camera(size: tuple[int, int], rng: Generator) -> Camera:
    """A camera behind a windscreen, for images of ``(H, W)``.

    The focal length is proportional to the width, so a scene looks the same at all sizes of one aspect ratio.
    """
    height, width = size
    focal = width * rng.uniform(0.52, 0.66)
    # minus half a pixel, because pixel 0 has its centre at 0
    cx, cy = 0.5 * width - 0.5, 0.47 * height - 0.5
    return Camera(focal, focal, cx, cy, baseline=0.54, height=rng.uniform(1.4, 1.9), pitch=rng.uniform(-0.015, 0.035))


class Street:
    """A bending street, and the objects along and on it.

    A place on the street is given by metres ahead and by the offset in metres to the right of the road's middle. An
    object that would overlap another is left out.

    Args:
        canvas: The picture that is drawn.
        rng: Draws the places and sizes of objects.
        looks: Draws their materials.
    """

    def __init__(self, canvas: Canvas, rng: Generator, looks: Looks) -> None:
        self._canvas, self._rng, self._looks = canvas, rng, looks
        lanes = int(rng.integers(2, 5))
        lane_width = rng.uniform(2.9, 3.6)
        self._lines = [lane_width * (i - lanes / 2) for i in range(lanes + 1)]
        parking = [2.2 if rng.random() < 0.6 else 0.0 for _ in range(2)]
        self._kerbs = self._lines[0] - parking[0], self._lines[-1] + parking[1]
        walks = [rng.uniform(1.5, 4.0) if rng.random() < 0.85 else 0.0 for _ in range(2)]
        self._edges = self._kerbs[0] - walks[0], self._kerbs[1] + walks[1]
        self._start = -self._lane() + rng.uniform(-0.3, 0.3)
        self._heading = rng.uniform(-0.05, 0.05)
        self._bend = rng.uniform(-0.0015, 0.0015)
        self._taken: list[tuple[float, float, float]] = []
        self._shadows: list[Box] = []

    def draw(self) -> None:
        """Draws everything."""
        grounds = self._draw_ground()
        self._draw_buildings()
        self._draw_cars()
        self._draw_trees()
        self._draw_poles()
        self._draw_people()
        for box in self._shadows:
            self._canvas.draw_shadow(box, grounds)

    def _lane(self) -> float:
        """The middle of a lane."""
        lane = int(self._rng.integers(len(self._lines) - 1))
        return (self._lines[lane] + self._lines[lane + 1]) / 2

    def _place(self, offset: float, z: float) -> tuple[float, float]:
        """The coordinate x and the street's yaw at a place."""
        return self._start + offset + z * (self._heading + z * self._bend), math.atan(
            self._heading + 2 * self._bend * z
        )

    def _takes(self, x: float, z: float, radius: float) -> bool:
        """Reserves a place and returns true, unless it is taken or very close to the camera."""
        if math.hypot(x, z) < 4 + radius or any(math.hypot(x - a, z - b) < radius + r for a, b, r in self._taken):
            return False
        self._taken.append((x, z, radius))
        return True

    def _ahead(self, nearest: float, farthest: float) -> float:
        """A random distance; near ones are more frequent."""
        return nearest + (farthest - nearest) * float(self._rng.random() ** 1.5)

    def _draw_ground(self) -> int:
        """Draws the ground, and returns the number of its last surface."""
        rng, canvas, looks = self._rng, self._canvas, self._looks
        road = canvas.add_ground(looks.road, ROAD)
        mark = canvas.add_ground(looks.lane_mark(), LANE_MARK)
        walk = canvas.add_ground(looks.sidewalk, SIDEWALK)
        terrain = canvas.add_ground(looks.terrain, TERRAIN)
        period, phase, crossing = rng.uniform(6, 12), rng.uniform(0, 12), rng.uniform(8, 60)

        def surfaces(x: Array, z: Array) -> NDArray[np.intp]:
            far = np.minimum(z, 2 * BUILT_LENGTH)
            offset = x - (self._start + far * (self._heading + far * self._bend))
            surface = np.full(offset.shape, terrain)
            np.copyto(surface, walk, where=(offset > self._edges[0]) & (offset < self._edges[1]))
            on_road = (offset > self._kerbs[0]) & (offset < self._kerbs[1])
            np.copyto(surface, road, where=on_road)
            dashes = (z + phase) % period < 0.45 * period
            for line in self._lines:
                painted = np.abs(offset - line) < 0.1
                outer = line in (self._lines[0], self._lines[-1])
                np.copyto(surface, mark, where=painted if outer else painted & dashes)
            zebra = (np.abs(z - crossing) < 1.5) & (offset % 1.0 < 0.5)
            np.copyto(surface, mark, where=zebra & on_road)
            return surface

        canvas.draw_ground(surfaces)
        last = terrain
        for onto, label in ((road, ROAD), (road, ROAD), (road, ROAD), (walk, SIDEWALK), (terrain, TERRAIN)):
            x, yaw = self._place(rng.uniform(self._edges[0] - 3, self._edges[1] + 3), z := rng.uniform(5, 35))
            last = canvas.add_ground(looks.patch(), label)
            turned = yaw + rng.uniform(-0.5, 0.5)
            canvas.draw_patch(Box(x, z, turned, rng.uniform(0.5, 2.5), rng.uniform(1, 5), 0, 0), last, onto)
        return last

    def _draw_buildings(self) -> None:
        rng = self._rng
        density = rng.uniform(0.3, 1.0)
        for side, edge in zip((-1, 1), self._edges, strict=True):
            z = rng.uniform(4, 12)
            while z < BUILT_LENGTH:
                length = rng.uniform(7, 22)
                setback, depth = (0.3, 1.0, 3.0, 7.0)[rng.integers(4)], rng.uniform(8, 14)
                x, yaw = self._place(edge + side * (setback + depth / 2), z + length / 2)
                building = Box(x, z + length / 2, yaw, depth, length, 0, rng.uniform(3.5, 14))
                if rng.random() < density:
                    self._draw_building(building, -side)
                z += length + max(0.0, rng.uniform(-6, 6))
        if rng.random() < 0.5:
            x, yaw = self._place(0, z := rng.uniform(80, 130))
            end = Box(x, z, yaw, rng.uniform(20, 60), 10, 0, rng.uniform(4, 15))
            self._canvas.draw_box(end, self._looks.building(), BUILDING)

    def _draw_building(self, building: Box, street: int) -> None:
        """Draws a building, sometimes with a poster on the side towards the ``street``: -1 is left, 1 is right."""
        rng = self._rng
        look = self._looks.building()
        self._canvas.draw_box(building, look, BUILDING)
        self._shadows.append(building)
        if rng.random() < 0.6:
            shape = tuple(SILHOUETTES)[rng.integers(len(SILHOUETTES))]
            width, height = SILHOUETTES[shape]
            along = rng.uniform(-0.5, 0.5) * (building.length - width)
            x, _, z = building.point(street * building.width / 2, along, 0)
            poster = Box(x, z, building.yaw, 0.04, width, 0.1, 0.1 + height)
            self._canvas.draw_box(poster, (self._looks.poster(look[0], shape),) * 3, BUILDING)

    def _draw_cars(self) -> None:
        rng = self._rng
        for _ in range(rng.integers(4, 11)):
            parked = (self._kerbs[0] + 1.2, self._kerbs[1] - 1.2)
            offset = parked[rng.integers(2)] if rng.random() < 0.6 else self._lane()
            x, yaw = self._place(offset + rng.uniform(-0.3, 0.3), z := self._ahead(6, 50))
            yaw += rng.uniform(-0.06, 0.06) + math.pi * rng.integers(2)
            width, length, height = rng.uniform(1.65, 1.9), rng.uniform(3.7, 4.8), rng.uniform(1.4, 1.75)
            van = rng.random() < 0.2
            if not self._takes(x, z, 2.4):
                continue
            body_look, cabin_look = self._looks.car()
            waist = 0.55 * height
            body = Box(x, z, yaw, width, length, 0, waist, front=0.15, rear=0.1)
            x, _, z = body.point(0, -(0.02 if van else 0.07) * length, 0)
            cabin = (
                Box(x, z, yaw, 0.96 * width, 0.9 * length, waist, 1.3 * height, front=0.3, rear=0.05, side=0.05)
                if van
                else Box(x, z, yaw, 0.94 * width, 0.6 * length, waist, height, front=0.8, rear=0.4, side=0.15)
            )
            self._canvas.draw_box(body, body_look, CAR)
            self._canvas.draw_box(cabin, cabin_look, CAR)
            self._shadows.append(body._replace(top=height))

    def _draw_trees(self) -> None:
        rng, canvas = self._rng, self._canvas
        for _ in range(rng.integers(3, 10)):
            side = int(rng.integers(2))
            offset = self._edges[side] + (2 * side - 1) * rng.uniform(-0.6, 4)
            x, _ = self._place(offset, z := rng.uniform(7, 60))
            bush = rng.random() < 0.25
            trunk = 0.3 if bush else rng.uniform(2.0, 3.2)
            radius = rng.uniform(0.6, 1.1) if bush else rng.uniform(1.2, 2.4)
            shifts = (radius * rng.uniform(-0.5, 0.5, (3, 3))).tolist()
            if not self._takes(x, z, 0.8):
                continue
            leaves, bark = self._looks.tree()
            canvas.draw_cylinder((x, trunk / 2, z), 0.16, trunk + 0.6, bark, TREE)
            for dx, dy, dz in shifts:
                middle = x + dx, trunk + 0.7 * radius + dy, z + dz
                canvas.draw_ellipsoid(middle, (0.8 * radius, 0.75 * radius, 0.8 * radius), leaves, TREE, ragged=0.6)
            self._shadows.append(Box(x, z, 0, radius, radius, trunk, trunk + radius))

    def _draw_poles(self) -> None:
        rng, canvas = self._rng, self._canvas
        for _ in range(rng.integers(5, 11)):
            side = int(rng.integers(2))
            offset = self._kerbs[side] + (2 * side - 1) * rng.uniform(0.2, 0.8)
            x, _ = self._place(offset, z := self._ahead(6, 35))
            signed, disc = rng.random() < 0.7, rng.random() < 0.4
            plate, turned = rng.uniform(0.35, 0.65), rng.uniform(-0.3, 0.3)
            height, radius = (rng.uniform(2.4, 3.4), 0.06) if signed else (rng.uniform(3, 7), rng.uniform(0.09, 0.16))
            if not self._takes(x, z, 0.4):
                continue
            canvas.draw_cylinder((x, height / 2, z), radius, height, self._looks.pole(), POLE)
            self._shadows.append(Box(x, z, 0, 2 * radius, 2 * radius, 0, height))
            if signed:
                look, front = self._looks.sign(), z - radius - 0.05
                if disc:
                    canvas.draw_ellipsoid((x, height - plate, front), (plate, plate, 0.04), look, SIGN)
                else:
                    box = Box(x, front, turned, 2 * plate, 0.04, height - 1.6 * plate, height)
                    canvas.draw_box(box, (look,) * 3, SIGN)

    def _draw_people(self) -> None:
        rng, canvas = self._rng, self._canvas
        for _ in range(rng.integers(5, 13)):
            side = int(rng.integers(2))
            kerb, beyond = self._kerbs[side], self._edges[side] + 2 * side - 1
            beside = kerb + (beyond - kerb) * rng.random()
            offset = beside if rng.random() < 0.75 else rng.uniform(*self._kerbs)
            x, _ = self._place(offset, z := self._ahead(5, 25))
            height, broad = rng.uniform(1.55, 1.95), rng.uniform(0.2, 0.27)
            stride = rng.uniform(0.1, 0.16)
            if not self._takes(x, z, 0.4):
                continue
            head, coat, trousers = self._looks.person()
            for leg in (-stride, stride):
                canvas.draw_cylinder((x + leg, 0.25 * height, z), 0.075, 0.5 * height, trousers, PERSON)
            canvas.draw_ellipsoid((x, 0.64 * height, z), (broad, 0.22 * height, 0.16), coat, PERSON)
            canvas.draw_ellipsoid((x, 0.92 * height, z), (0.1, 0.08 * height, 0.11), head, PERSON)
            self._shadows.append(Box(x, z, 0, 0.4, 0.3, 0, height))
