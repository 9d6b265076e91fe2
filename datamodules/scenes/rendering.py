"""A small renderer of street scenes in numpy: a pinhole camera, flat ground, and boxes and round solids on it.

Points are ``(x, y, z)`` in metres: x to the right, y up from the ground, z ahead and level. The camera is at
``(0, camera.height, 0)``. A pixel has a ray ``(across, up, ahead)``, scaled so that its component along the optical
axis is 1. The ray's point at depth t is the camera's place plus t times the ray.

All surfaces are drawn by inverse depth, 1 / t, which is linear in the ray on a plane. The camera does not roll, so
``across`` depends on the pixel's column only, and ``up`` and ``ahead`` depend on its row only. The inverse depth of a
plane is therefore the sum of a row and a column vector, and that of a convex solid is a minimum and a maximum over its
planes. Drawing finds the nearest surface of each pixel, its depth and its light. Colours are computed once, at the end,
for all pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from datamodules.reading.frame import Camera
from datamodules.scenes.textures import TEXTURE_SIDE, atlas

Array = NDArray[np.float32]
Colour = tuple[float, float, float]
Vector = tuple[float, float, float]
Window = tuple[slice, slice]

UP: Vector = (0.0, 1.0, 0.0)
SKY_SURFACE = 0  # the surface of pixels where nothing was drawn
SKY_DEPTH = 1000.0  # metres; the depth of the clouds
NEAR_DEPTH = 0.1  # metres; a solid that is nearer may cover any part of the image


class Material(NamedTuple):
    """The look of a surface: a texture that blends two colours.

    ``first``, ``second``: RGB from 0 to 1; ``texture``: a name in the :func:`~datamodules.scenes.textures.atlas`;
    ``size``: metres after which the texture repeats; ``None`` stretches it over each face.
    """

    first: Colour
    second: Colour
    texture: str
    size: float | None


class Weather(NamedTuple):
    """Light, air and exposure.

    ``sun``: unit vector towards the sun; ``ambient``: light in the shade, where full sun is 1; ``haze``: RGB of the
    air; ``visibility``: metres after which 1/e of a surface's colour is left; ``gain``: exposure; ``noise``: standard
    deviation of the sensor's noise, where white is 1.
    """

    sun: Vector
    ambient: float
    haze: Colour
    visibility: float
    gain: float
    noise: float

    def on(self, normal: Vector) -> float:
        """The light on a plane with this outward unit normal (Lambert)."""
        return self.ambient + (1 - self.ambient) * max(0.0, _dot(normal, self.sun))


class Face(NamedTuple):
    """A plane that bounds a solid.

    ``normal``: outward, of unit length; ``corner``: a point of the face, where the texture starts; ``u``, ``v``: unit
    vectors of the texture's axes; ``extents``: metres of the face along these; ``material``: its look.
    """

    normal: Vector
    corner: Vector
    u: Vector
    v: Vector
    extents: tuple[float, float]
    material: Material


class Box(NamedTuple):
    """An upright box.

    ``x``, ``z``: its middle; ``yaw``: the angle from ahead to its length, clockwise, in radians; ``bottom``, ``top``:
    heights above the ground; ``front``, ``rear``, ``side``: metres by which these faces lean inwards for each metre of
    height.
    """

    x: float
    z: float
    yaw: float
    width: float
    length: float
    bottom: float
    top: float
    front: float = 0.0
    rear: float = 0.0
    side: float = 0.0

    @property
    def right(self) -> Vector:
        """The direction of its width."""
        return math.cos(self.yaw), 0.0, -math.sin(self.yaw)

    @property
    def forward(self) -> Vector:
        """The direction of its length."""
        return math.sin(self.yaw), 0.0, math.cos(self.yaw)

    def point(self, right: float, forward: float, y: float) -> Vector:
        """The point at these distances in metres from its middle."""
        sine, cosine = math.sin(self.yaw), math.cos(self.yaw)
        return self.x + right * cosine + forward * sine, y, self.z - right * sine + forward * cosine

    def corners(self, *heights: float) -> list[Vector]:
        """The corners of its footprint at these heights."""
        a, b = self.width / 2, self.length / 2
        return [self.point(i, j, y) for i, j in ((-a, -b), (-a, b), (a, -b), (a, b)) for y in heights]

    def faces(self, side: Material, end: Material, top: Material) -> list[Face]:
        """Its faces: ``side`` is the material of both sides, ``end`` of front and rear, ``top`` of top and bottom."""
        a, b = self.width / 2, self.length / 2
        right, forward = self.right, self.forward
        corner = self.point(-a, -b, self.bottom)
        down = (0.0, -1.0, 0.0)
        width, length = (self.width, self.top - self.bottom), (self.length, self.top - self.bottom)
        return [
            Face(_leaning(right, 1, self.side), self.point(a, -b, self.bottom), forward, down, length, side),
            Face(_leaning(right, -1, self.side), corner, forward, down, length, side),
            Face(_leaning(forward, 1, self.front), self.point(-a, b, self.bottom), right, down, width, end),
            Face(_leaning(forward, -1, self.rear), corner, right, down, width, end),
            Face(UP, self.point(-a, -b, self.top), right, forward, (self.width, self.length), top),
            Face(down, corner, right, forward, (self.width, self.length), top),
        ]


class Canvas:
    """The picture that is drawn; each pixel keeps the nearest surface on its ray.

    Draw the ground first, then its patches, then all other objects in any order.

    Args:
        camera: The camera.
        size: Height and width of the image in pixels.
        weather: Light and air.
        sky: The look of the sky.
        label: The sky's class.
    """

    def __init__(self, camera: Camera, size: tuple[int, int], weather: Weather, sky: Material, label: int) -> None:
        self.camera, self.weather = camera, weather
        rows = (np.arange(size[0])[:, None] - camera.cy) / camera.fy
        columns = (np.arange(size[1])[None] - camera.cx) / camera.fx
        sine, cosine = math.sin(camera.pitch), math.cos(camera.pitch)
        self._across: Array = columns.astype(np.float32)
        self._up: Array = (-cosine * rows - sine).astype(np.float32)
        self._ahead: Array = (cosine - sine * rows).astype(np.float32)
        self._inverse_depth: Array = np.zeros(size, np.float32)
        self._surface: NDArray[np.intp] = np.full(size, SKY_SURFACE)
        self._light: Array = np.ones(size, np.float32)
        self._looks: list[tuple[float, ...]] = []
        self._texture_starts: list[int] = []
        self._labels: list[int] = []
        corner, extents = (0, camera.height, SKY_DEPTH), (SKY_DEPTH, SKY_DEPTH)
        backdrop = Face((0, 0, -1), corner, (1, 0, 0), (0, -1, 0), extents, sky._replace(size=None))
        self._add_surface(backdrop, label, light=1.0)

    def add_ground(self, material: Material, label: int) -> int:
        """Adds a surface on the ground, which no pixel shows yet, and returns its number."""
        face = Face(UP, (0, 0, 0), (1, 0, 0), (0, 0, 1), (1, 1), material)
        return self._add_surface(face, label, self.weather.on(UP))

    def draw_ground(self, surfaces: Callable[[Array, Array], NDArray[np.intp]]) -> None:
        """Draws the ground on all pixels below the horizon.

        Args:
            surfaces: Maps x and z of points on the ground, ``(rows, W)`` and ``(rows, 1)``, to the numbers of their
                surfaces, ``(rows, W)``.
        """
        below = int(np.searchsorted(-self._up[:, 0], 1e-6))
        inverse_depth = self._up[below:] / -self.camera.height
        self._inverse_depth[below:] = inverse_depth
        self._surface[below:] = surfaces(self._across / inverse_depth, self._ahead[below:] / inverse_depth)

    def draw_patch(self, footprint: Box, surface: int, onto: int) -> None:
        """Draws the footprint of a box with ``surface``, where the ground shows the surface ``onto``."""
        window, covered = self._sweep(footprint, (0.0, 0.0))
        np.copyto(self._surface[window], surface, where=covered & (self._surface[window] == onto))

    def draw_shadow(self, box: Box, grounds: int) -> None:
        """Darkens the ground in the shadow of a box; the ground is the surfaces from 1 to ``grounds``."""
        x, y, z = self.weather.sun
        reach = -box.top / max(y, 0.3)
        window, covered = self._sweep(box, (x * reach, z * reach))
        surface = self._surface[window]
        covered &= (surface > SKY_SURFACE) & (surface <= grounds)
        np.copyto(self._light[window], self.weather.ambient / self.weather.on(UP), where=covered)

    def draw_solid(self, faces: Sequence[Face], corners: Sequence[Vector], label: int) -> None:
        """Draws the convex solid inside all faces; it lies in the convex hull of ``corners``."""
        window = self._window(corners)
        if window is None:
            return
        height = self.camera.height
        near, far, facing = [], [], []
        for face in faces:
            (a, b, c), (x, y, z) = face.normal, face.corner
            offset = a * x + b * (y - height) + c * z
            if abs(offset) < 1e-6:
                continue  # the camera lies in the plane of this face
            plane = (a / offset, b / offset, c / offset)
            if offset > 0:
                far.append(plane)
            else:
                near.append(plane)
                facing.append(self._add_surface(face, label, self.weather.on(face.normal)))
        if not near:
            return
        # a ray is inside the solid after the last plane of entry and before the first plane of exit
        inverse_depths = self._linear([*near, *far], window)
        entries, exits = inverse_depths[: len(near)], inverse_depths[len(near) :]
        entry = entries.min(0)
        hit = entry > np.maximum(exits.max(0, initial=0), self._inverse_depth[window])
        surface = np.full(entry.shape, facing[0])
        for number, plane_entry in zip(facing[1:], entries[1:], strict=True):
            np.copyto(surface, number, where=plane_entry == entry)
        self._put(window, hit, entry, surface, 1.0)

    def draw_box(self, box: Box, materials: tuple[Material, Material, Material], label: int) -> None:
        """Draws a box; the materials are those of :meth:`Box.faces`."""
        self.draw_solid(box.faces(*materials), box.corners(box.bottom, box.top), label)

    def draw_ellipsoid(
        self, middle: Vector, radii: Vector, material: Material, label: int, ragged: float = 0.0
    ) -> None:
        """Draws an upright ellipsoid; gaps between leaves cut into its outline as deep as ``ragged``, below 1."""
        self._draw_round(middle, radii, 1.0, material, label, ragged)

    def draw_cylinder(self, middle: Vector, radius: float, height: float, material: Material, label: int) -> None:
        """Draws an upright cylinder without its caps."""
        self._draw_round(middle, (radius, height / 2, radius), 0.0, material, label, 0.0)

    def image(self, rng: Generator) -> NDArray[np.uint8]:
        """The photograph, ``(H, W, 3)``, with haze, the blur of the lens and the noise of the sensor."""
        *layout, reach, r, g, b, dr, dg, db = (
            np.take(column, self._surface) for column in np.array(self._looks, np.float32).T
        )
        inverse_depth = np.maximum(self._inverse_depth, 1 / SKY_DEPTH)
        depth = 1 / inverse_depth
        u, v = (
            ((x * self._across + y * self._up + z * self._ahead) * depth + start).astype(np.int32) & (TEXTURE_SIDE - 1)
            for x, y, z, start in (layout[:4], layout[4:])
        )
        texels = np.take(np.array(self._texture_starts, np.int32), self._surface) + v * TEXTURE_SIDE + u
        texture = np.take(atlas().values, texels) * np.minimum(reach * inverse_depth, 1)
        clear = np.exp(depth / -self.weather.visibility)
        # the sky has the colour of haze at the horizon and its own colour above
        np.copyto(clear, 1 - np.exp(-6 * np.maximum(self._up, 0)), where=self._surface == SKY_SURFACE)
        image = np.empty((3, *depth.shape), np.float32)
        for channel, base, span, haze in zip(image, (r, g, b), (dr, dg, db), self.weather.haze, strict=True):
            channel[:] = ((base + span * texture) * self._light - haze) * clear + haze
        image = _blur(_blur(image, 1), 2)
        image *= self.weather.gain
        image += self.weather.noise * rng.standard_normal(image.shape, dtype=np.float32)
        pixels = (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
        return np.ascontiguousarray(pixels.transpose(1, 2, 0))

    def depth(self) -> Array:
        """Metres along the optical axis, ``(H, W)``; 0 in the sky."""
        drawn = self._inverse_depth > 0
        return np.divide(1, self._inverse_depth, out=np.zeros_like(self._inverse_depth), where=drawn)

    def target(self) -> NDArray[np.uint8]:
        """The classes, ``(H, W)``."""
        return np.take(np.array(self._labels, np.uint8), self._surface)

    def _add_surface(self, face: Face, label: int, light: float) -> int:
        (x, y, z), material = face.corner, face.material
        y -= self.camera.height
        sizes = face.extents if material.size is None else (material.size, material.size)
        layout: list[float] = []
        for (a, b, c), size in zip((face.u, face.v), sizes, strict=True):
            scale = TEXTURE_SIDE / size
            # an offset of 64 repetitions makes the coordinates positive, so that cutting off a fraction rounds down
            layout += [a * scale, b * scale, c * scale, 64 * TEXTURE_SIDE - (a * x + b * y + c * z) * scale]
        mean = atlas().means[material.texture]
        span = [light * (b - a) for a, b in zip(material.first, material.second, strict=True)]
        base = [light * a + mean * s for a, s in zip(material.first, span, strict=True)]
        # a texture fades to its mean where it repeats within 8 pixels, because it would flicker
        self._looks.append((*layout, min(sizes) * self.camera.fx / 8, *base, *span))
        self._texture_starts.append(atlas().starts[material.texture])
        self._labels.append(label)
        return len(self._labels) - 1

    def _draw_round(
        self, middle: Vector, radii: Vector, vertical: float, material: Material, label: int, ragged: float
    ) -> None:
        """Draws the solution ``1 / t``, the greater one, of ``|(t ray - centre) / radii| = 1``.

        ``vertical`` is 1 for an ellipsoid; 0 leaves y out, which gives a cylinder.
        """
        (cx, cy, cz), (rx, ry, rz) = middle, radii
        signs = (-1, 1)
        window = self._window([(cx + i * rx, cy + j * ry, cz + k * rz) for i in signs for j in signs for k in signs])
        cy -= self.camera.height
        sx, sy, sz = 1 / rx, vertical / ry, 1 / rz
        constant = (cx * sx) ** 2 + (cy * sy) ** 2 + (cz * sz) ** 2 - 1
        if window is None or constant <= 0:
            return
        rows, columns = window
        across, up, ahead = self._across[:, columns], self._up[rows], self._ahead[rows]
        squared = (across * sx) ** 2 + ((up * sy) ** 2 + (ahead * sz) ** 2)
        x, y, z = self.weather.sun
        product, sunward = self._linear([(cx * sx * sx, cy * sy * sy, cz * sz * sz), (x * sx, y * sy, z * sz)], window)
        discriminant = product * product - squared * constant
        inverse_depth = (product + np.sqrt(np.maximum(discriminant, 0))) / constant
        hit = (discriminant > 0) & (inverse_depth > self._inverse_depth[window])
        if ragged:
            hit &= discriminant > ragged * self._leaves(cz / (4 * rx), window) * squared
        if not vertical:
            hit &= np.abs(up - cy * inverse_depth) < ry * inverse_depth
        facing = sunward / np.maximum(inverse_depth, 1e-4) - (cx * sx * x + cy * sy * y + cz * sz * z)
        light = self.weather.ambient + (1 - self.weather.ambient) * np.maximum(facing, 0)
        corner = (cx - rx, middle[1] - ry, cz)
        face = Face((0, 0, -1), corner, (1, 0, 0), (0, -1, 0), (2 * rx, 2 * ry), material)
        self._put(window, hit, inverse_depth, self._add_surface(face, label, 1.0), light)

    def _leaves(self, scale: float, window: Window) -> Array:
        """The texture of leaves; it repeats ``scale`` times for one unit of a ray, across and up."""
        rows, columns = window
        v, u = (
            (ray * (scale * TEXTURE_SIDE)).astype(np.int32) & (TEXTURE_SIDE - 1)
            for ray in (self._up[rows], self._across[:, columns])
        )
        start, mean = atlas().starts["leaves"], atlas().means["leaves"]
        leaves: Array = np.take(atlas().values, start + v * TEXTURE_SIDE + u) + mean
        return leaves

    def _linear(self, vectors: Sequence[Vector], window: Window) -> Array:
        """The products of P vectors with the rays of a window, ``(P, h, w)``."""
        rows, columns = window
        x, y, z = np.array(vectors, np.float32).T[:, :, None, None]
        products: Array = x * self._across[:, columns] + (y * self._up[rows] + z * self._ahead[rows])
        return products

    def _sweep(self, box: Box, way: tuple[float, float]) -> tuple[Window, NDArray[np.bool_]]:
        """The rays that meet the ground in the area over which a box's footprint moves by ``way`` in x and z."""
        dx, dz = way
        corners = [(x + s * dx, 0.0, z + s * dz) for x, _, z in box.corners(0.0) for s in (0, 1)]
        window = self._window(corners)
        if window is None:
            return (slice(0), slice(0)), np.zeros((0, 0), np.bool_)
        (ax, _, az), (bx, _, bz) = box.right, box.forward
        # the area has the edges of the footprint, moved, and two edges along the way
        normals = [(ax, az), (-ax, -az), (bx, bz), (-bx, -bz), (dz, -dx), (-dz, dx)]
        # a x + b z <= c on the ground, where 1 / t is up / -height
        edges = [(a, max(a * x + b * z for x, _, z in corners) / self.camera.height, b) for a, b in normals]
        return window, self._linear(edges, window).max(0) <= 0

    def _window(self, corners: Sequence[Vector]) -> Window | None:
        """The part of the image that holds the corners' convex hull."""
        camera = self.camera
        sine, cosine = math.sin(camera.pitch), math.cos(camera.pitch)
        height, width = self._surface.shape
        us, vs = [], []
        for x, y, z in corners:
            y -= camera.height
            depth = cosine * z - sine * y
            if depth >= NEAR_DEPTH:
                us.append(x / depth)
                vs.append((-cosine * y - sine * z) / depth)
        if len(us) < len(corners):
            return (slice(0, height), slice(0, width)) if us else None
        left = max(math.floor(camera.cx + camera.fx * min(us)), 0)
        right = min(math.ceil(camera.cx + camera.fx * max(us)) + 1, width)
        upper = max(math.floor(camera.cy + camera.fy * min(vs)), 0)
        lower = min(math.ceil(camera.cy + camera.fy * max(vs)) + 1, height)
        return None if left >= right or upper >= lower else (slice(upper, lower), slice(left, right))

    def _put(
        self,
        window: Window,
        hit: NDArray[np.bool_],
        inverse_depth: Array,
        surface: NDArray[np.intp] | int,
        light: Array | float,
    ) -> None:
        np.copyto(self._inverse_depth[window], inverse_depth, where=hit)
        np.copyto(self._surface[window], surface, where=hit)
        np.copyto(self._light[window], light, where=hit)


def _dot(a: Vector, b: Vector) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _leaning(axis: Vector, sign: int, lean: float) -> Vector:
    """The unit normal along a level axis of a face that leans inwards."""
    norm = math.hypot(1.0, lean)
    return sign * axis[0] / norm, lean / norm, sign * axis[2] / norm


def _blur(image: Array, axis: int) -> Array:
    """Weights 1/4, 1/2, 1/4 along an axis; the border stays."""
    before, middle, after = (
        tuple(slice(start, stop) if i == axis else slice(None) for i in range(3))
        for start, stop in ((None, -2), (1, -1), (2, None))
    )
    blurred: Array = image.copy()
    blurred[middle] += image[before] / 4 + image[after] / 4 - image[middle] / 2
    return blurred
