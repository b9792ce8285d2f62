"""A small ray caster: textured rectangles, boxes, spheres and poles under a sun, in vectorised NumPy.

World axes: x right, y down, z forward; the ground is y = 0. A ray is o + t d with d_z = 1 in the camera
frame, so t is the depth along the optical axis. Each primitive is drawn into its bounding window only, front
to back, into a z-buffer that also keeps the surface coordinates (a, b) in metres and the sunlight; colours
are computed once per pixel at the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from depthloss.training.rendering.bounds import NEAR, bounds

Vector = Sequence[float]

# Kinds of primitives that a surface belongs to.
KINDS = ("surface", "box", "sphere", "pole")


@dataclass(frozen=True)
class Camera:
    """Pinhole camera with square pixels and its principal point at the centre.

    Attributes:
        shape: (H, W) in pixels.
        focal: focal length in pixels.
        position: [3], world coordinates in metres.
        rotation: [3, 3], columns are the camera's x, y, z axes in world coordinates.
    """

    shape: tuple[int, int]
    focal: float
    position: np.ndarray
    rotation: np.ndarray

    @classmethod
    def aimed(
        cls,
        shape: tuple[int, int],
        fov: float,
        position: tuple[float, float, float],
        yaw: float = 0.0,
        pitch: float = 0.0,
        roll: float = 0.0,
    ) -> Camera:
        """Build a camera from angles in degrees.

        Args:
            shape: (H, W) in pixels.
            fov: field of view over the longer image side.
            position: world coordinates in metres (y down).
            yaw: positive turns right.
            pitch: positive looks down.
            roll: positive turns the image counter-clockwise.
        """
        cr, sr = math.cos(math.radians(roll)), math.sin(math.radians(roll))
        spin = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
        focal = max(shape) / 2 / math.tan(math.radians(fov) / 2)
        return cls(tuple(shape), focal, np.array(position, float), _turn(yaw) @ _tilt(pitch) @ spin)

    def moved(self, reach: Sequence[float], rng: np.random.Generator) -> Camera:
        """Return a camera near this one.

        Args:
            reach: how far at most it moves ahead or back and to a side, in metres, and turns and tilts, in
                degrees.
            rng: random stream.
        """
        ahead, aside, yaw, pitch = np.array(reach) * rng.uniform(-1, 1, 4)
        axis = self.rotation[:, 2]
        forward = np.array([axis[0], 0, axis[2]]) / math.hypot(axis[0], axis[2])
        right = np.array([forward[2], 0, -forward[0]])
        position = self.position + ahead * forward + aside * right
        return replace(self, position=position, rotation=_turn(yaw) @ self.rotation @ _tilt(pitch))


def _turn(degrees: float) -> np.ndarray:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def _tilt(degrees: float) -> np.ndarray:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[1, 0, 0], [0, c, s], [0, -s, c]])


@dataclass
class Scene:
    """Primitives and light. Colours are linear RGB in [0, 1], lengths in metres.

    Attributes:
        sun: unit vector towards the light.
        sun_colour: strength of the light.
        ambient: strength of the light from everywhere.
        depth_range: ground truth outside is 0.
        lamp: position of a lamp whose light falls off with distance, or None.
        haze: distance over which two thirds of a surface turn into the colour of the horizon, or None.
        sky: colours of the horizon and the zenith; pixels without a surface show them.
    """

    sun: np.ndarray
    sun_colour: float
    ambient: float
    depth_range: tuple[float, float]
    lamp: np.ndarray | None = None
    haze: float | None = None
    sky: tuple[tuple[float, ...], tuple[float, ...]] = ((0.7, 0.75, 0.8), (0.2, 0.4, 0.8))
    materials: list[tuple] = field(default_factory=list)
    rects: list[tuple] = field(default_factory=list)
    boxes: list[tuple] = field(default_factory=list)
    spheres: list[tuple] = field(default_factory=list)
    poles: list[tuple] = field(default_factory=list)

    def material(
        self,
        texture: int,
        dark: Vector,
        light: Vector,
        tile: Vector = (2.0, 2.0),
        offset: Vector = (0.0, 0.0),
    ) -> int:
        """Add a material and return its index.

        Args:
            texture: index of a texture of the bank.
            dark: colour where the texture is 0.
            light: colour where the texture is 255.
            tile: size (along a, along b) in metres that one texture tile covers.
            offset: shift of the texture in tiles, each in [0, 1).
        """
        self.materials.append((texture, *dark, *light, *tile, *offset))
        return len(self.materials) - 1

    def rect(
        self,
        centre: Vector,
        a_axis: Vector,
        b_axis: Vector,
        half: Vector,
        material: int,
        ground: bool = False,
    ) -> None:
        """Add a rectangle, seen from both sides.

        Args:
            centre: [3].
            a_axis: unit vector along the first side.
            b_axis: unit vector along the second side.
            half: half lengths of the two sides.
            material: index of its material.
            ground: whether it lies in y = 0 and takes the shadows of boxes, spheres and poles.
        """
        self.rects.append((*centre, *a_axis, *b_axis, *half, material, ground))

    def box(self, centre: Vector, half: Vector, yaw: float, material: int, top: int | None = None) -> None:
        """Add a solid upright box.

        Args:
            centre: [3].
            half: half lengths along its own x, y and z.
            yaw: turn about the vertical in degrees.
            material: material of the sides.
            top: material of the top and bottom; default is that of the sides.
        """
        turn = math.radians(yaw)
        top = material if top is None else top
        self.boxes.append((*centre, *half, math.cos(turn), math.sin(turn), material, top))

    def sphere(self, centre: Vector, radius: float, material: int) -> None:
        """Add a sphere."""
        self.spheres.append((*centre, radius, material))

    def pole(self, x: float, z: float, radius: float, top: float, bottom: float, material: int) -> None:
        """Add an upright cylinder from y = `bottom` up to y = `top` (y points down), open at its ends."""
        self.poles.append((x, z, radius, top, bottom, material))


class Canvas:
    """The buffers of one picture.

    Attributes:
        t: float32 [H, W], depth, infinite where there is no surface.
        a: float32 [H, W], first surface coordinate in metres.
        b: float32 [H, W], second surface coordinate in metres.
        light: float32 [H, W], share of the sun that falls on the surface.
        surface: int16 [H, W], index into `surfaces`; 0 = sky.
        surfaces: (material, offset of the texture level, ground) of each surface.
        kinds: index into `KINDS` of each surface; -1 for the sky.
    """

    def __init__(self, scene: Scene, camera: Camera) -> None:
        self.scene, self.camera = scene, camera
        h, w = camera.shape
        self.x = (np.arange(w) + 0.5 - w / 2) / camera.focal  # [W], ray direction in the camera frame
        self.y = (np.arange(h) + 0.5 - h / 2) / camera.focal  # [H]
        self.t = np.full((h, w), np.inf, np.float32)
        self.a = np.zeros((h, w), np.float32)
        self.b = np.zeros((h, w), np.float32)
        self.light = np.zeros((h, w), np.float32)
        self.surface = np.zeros((h, w), np.int16)  # 0 = sky
        self.surfaces: list[tuple[int, float, bool]] = [(0, 0.0, False)]  # material, level offset, ground
        self.kinds = [-1]
        self.sun = scene.sun @ camera.rotation  # in the camera frame

    def linear(self, v: np.ndarray, rows: slice, cols: slice, dtype: type = np.float32) -> np.ndarray:
        """The product v . d over a window, for a vector in the camera frame."""
        return np.add.outer((v[1] * self.y[rows] + v[2]).astype(dtype), (v[0] * self.x[cols]).astype(dtype))

    def window(self, low: np.ndarray, high: np.ndarray) -> tuple[slice, slice] | None:
        """Pixels between two image points (x / z, y / z), or None outside the image."""
        h, w = self.camera.shape
        f = self.camera.focal
        c0, c1 = max(0, math.floor(low[0] * f + w / 2 - 0.5)), min(w, math.ceil(high[0] * f + w / 2 + 0.5))
        r0, r1 = max(0, math.floor(low[1] * f + h / 2 - 0.5)), min(h, math.ceil(high[1] * f + h / 2 + 0.5))
        return (slice(r0, r1), slice(c0, c1)) if c0 < c1 and r0 < r1 else None

    def draw(self) -> None:
        """Draw every primitive."""
        jobs = [*self.plane_jobs(), *self.sphere_jobs(), *self.pole_jobs()]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            for nearest, window, draw in sorted(jobs, key=lambda job: job[0]):
                rows, cols = window
                # Drawn front to back, so a window that is nearer everywhere hides the primitive.
                if self.t[rows, cols].max() > nearest:
                    draw(rows, cols)

    def keep(
        self, rows, cols, hit, t, a, b, light, material: int, distance: float, kind, ground=False
    ) -> None:
        """Write the pixels of `hit` that are nearer than what is there.

        `distance` from the eye to the plane of the surface sets how fast its texture shrinks with depth;
        `kind` is one of `KINDS`.
        """
        old = self.t[rows, cols]
        hit &= t < old
        hit &= t > NEAR
        if not hit.any():
            return
        np.copyto(old, t, where=hit, casting="same_kind")
        np.copyto(self.a[rows, cols], a, where=hit, casting="same_kind")
        np.copyto(self.b[rows, cols], b, where=hit, casting="same_kind")
        np.copyto(self.light[rows, cols], light, where=hit, casting="same_kind")
        np.copyto(self.surface[rows, cols], np.int16(len(self.surfaces)), where=hit)
        self.surfaces.append((material, -0.5 * math.log2(max(distance, NEAR)), ground))
        self.kinds.append(KINDS.index(kind))

    def plane_jobs(self) -> list[tuple]:
        """Rectangles and the visible sides of boxes, each with its nearest depth and window."""
        rects = _box_sides(self.scene.boxes, self.camera.position)
        sides = len(rects)
        if self.scene.rects:
            rects = np.concatenate([rects, np.array(self.scene.rects, float)])
        if not len(rects):
            return []
        turn = self.camera.rotation
        centre = (rects[:, 0:3] - self.camera.position) @ turn
        e1, e2 = rects[:, 3:6] @ turn, rects[:, 6:9] @ turn
        normal = np.cross(e1, e2)
        distance = np.einsum("nk,nk->n", normal, centre)
        s1, s2 = e1 * rects[:, 9:10], e2 * rects[:, 10:11]
        corners = centre[:, None] + np.stack([s1 + s2, s1 - s2, -s1 - s2, s2 - s1], 1)
        low, high, nearest = bounds(corners, np.roll(corners, -1, 1))
        a0, b0 = np.einsum("nk,nk->n", e1, centre), np.einsum("nk,nk->n", e2, centre)
        jobs = []
        for i in np.flatnonzero(np.isfinite(nearest)):
            window = self.window(low[i], high[i])
            if window is None or distance[i] == 0:
                continue
            half, material, ground = rects[i, 9:11], int(rects[i, 11]), bool(rects[i, 12])
            lit = np.float32(max(0.0, -math.copysign(1.0, distance[i]) * float(normal[i] @ self.sun)))
            rest = material, abs(distance[i]), "box" if i < sides else "surface", ground

            def draw(rows, cols, i=i, half=half, lit=lit, rest=rest):
                t = np.float32(distance[i]) / self.linear(normal[i], rows, cols)
                a = self.linear(e1[i], rows, cols)
                a *= t
                a -= np.float32(a0[i])
                b = self.linear(e2[i], rows, cols)
                b *= t
                b -= np.float32(b0[i])
                hit = np.abs(a) <= half[0]
                hit &= np.abs(b) <= half[1]
                self.keep(rows, cols, hit, t, a, b, lit, *rest)

            jobs.append((nearest[i], window, draw))
        return jobs

    def sphere_jobs(self) -> list[tuple]:
        """Spheres, each with its nearest depth and window."""
        jobs = []
        for x, y, z, r, material in self.scene.spheres:
            c = (np.array([x, y, z]) - self.camera.position) @ self.camera.rotation
            if c[2] <= r + NEAR:
                continue
            # The silhouette's extent along an image axis is the tangent cone in that plane.
            mid = np.arctan2(c[:2], c[2])
            spread = np.arcsin(r / np.hypot(c[:2], c[2]))
            window = self.window(np.tan(mid - spread), np.tan(mid + spread))
            if window is None:
                continue

            def draw(rows, cols, c=c, r=r, material=int(material)):
                # float64: the discriminant of a small far sphere is a difference of large numbers.
                x, y = self.x[cols][None, :], self.y[rows][:, None]
                q = x * x + (y * y + 1)
                along = x * c[0] + (y * c[1] + c[2])
                root = along * along - q * (c @ c - r * r)
                hit = root > 0
                t = (along - np.sqrt(np.maximum(root, 0))) / q
                n = np.stack([x * t - c[0], y * t - c[1], t - c[2]]) / r
                light = np.maximum(0, np.tensordot(self.sun, n, 1))
                nx, ny, nz = np.tensordot(self.camera.rotation, n, 1).astype(np.float32)
                a, b = np.arctan2(nx, nz) * r, np.arcsin(np.clip(ny, -1, 1)) * r
                self.keep(rows, cols, hit, t, a, b, light, material, float(c[2]), "sphere")

            jobs.append((c[2] - r, window, draw))
        return jobs

    def pole_jobs(self) -> list[tuple]:
        """Poles, each with its nearest depth and window."""
        if not self.scene.poles:
            return []
        poles = np.array(self.scene.poles, float)
        poles[:, :2] -= self.camera.position[[0, 2]]
        poles[:, 3:5] -= self.camera.position[1]
        jobs = []
        low, high, nearest = self.block_bounds(*poles[:, :5].T)
        for i in np.flatnonzero(np.isfinite(nearest)):
            window = self.window(low[i], high[i])
            if window is None:
                continue

            def draw(rows, cols, pole=poles[i]):
                px, pz, r, top, bottom, material = pole
                turn = self.camera.rotation
                dx, dy, dz = (self.linear(turn[k], rows, cols, np.float64) for k in range(3))
                q = dx * dx + dz * dz
                root = q * (r * r) - (dx * pz - dz * px) ** 2
                t = (dx * px + dz * pz - np.sqrt(np.maximum(root, 0))) / q
                b = t * dy
                hit = (root > 0) & (b >= top) & (b <= bottom)
                nx, nz = (t * dx - px) / r, (t * dz - pz) / r
                light = np.maximum(0, self.scene.sun[0] * nx + self.scene.sun[2] * nz)
                a = np.arctan2(nx.astype(np.float32), nz.astype(np.float32)) * r
                self.keep(rows, cols, hit, t, a, b, light, int(material), math.hypot(px, pz), "pole")

            jobs.append((nearest[i], window, draw))
        return jobs

    def block_bounds(self, x, z, r, top, bottom) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Bounds of upright blocks (camera at the origin, world axes) as `_bounds` gives them."""
        signs = np.array([(-1, -1), (-1, 1), (1, 1), (1, -1)], float)
        flat = np.stack([x, z], 1)[:, None] + signs * r[:, None, None]  # [N, 4, 2]
        up = np.insert(flat, 1, top[:, None], -1)
        down = np.insert(flat, 1, bottom[:, None], -1)
        points = np.concatenate([up, down, up, down], 1) @ self.camera.rotation
        ends = np.concatenate([down, up, np.roll(up, -1, 1), np.roll(down, -1, 1)], 1) @ self.camera.rotation
        return bounds(points, ends)


def _box_sides(boxes: list[tuple], eye: np.ndarray) -> np.ndarray:
    """The sides of boxes that face the eye, as rows of `Scene.rect`."""
    if not boxes:
        return np.empty((0, 13))
    box = np.array(boxes, float)
    centre, half, cos, sin = box[:, 0:3], box[:, 3:6], box[:, 6], box[:, 7]
    zero, one = np.zeros_like(cos), np.ones_like(cos)
    axes = np.stack([cos, zero, -sin, zero, one, zero, sin, zero, cos], 1).reshape(-1, 3, 3)
    rows = []
    # Sides of constant x, y, z with the axes of their surface; b is vertical on the walls.
    for axis, a, b in ((0, 2, 1), (1, 0, 2), (2, 0, 1)):
        for sign in (-1.0, 1.0):
            middle = centre + sign * half[:, axis, None] * axes[:, axis]
            seen = sign * np.einsum("nk,nk->n", axes[:, axis], eye - middle) > 0
            material = box[:, 9] if axis == 1 else box[:, 8]
            parts = [middle, axes[:, a], axes[:, b], half[:, [a, b]], material[:, None], zero[:, None]]
            rows.append(np.concatenate(parts, 1)[seen])
    return np.concatenate(rows)
