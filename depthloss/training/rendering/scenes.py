"""Random rooms (0.5 to 10 m) and streets (2 to 80 m) for the synthetic data set."""

from __future__ import annotations

import math

import numpy as np

from depthloss.training.rendering.canvas import Camera, Scene
from depthloss.training.rendering.textures import TEXTURE_INDEX

ROOM_RANGE = (0.5, 10.0)  # metres
STREET_RANGE = (2.0, 80.0)

# How far a view of the same scene may be: metres ahead and to a side, degrees of turn and tilt. Within a room
# the camera stays inside the free disc around its first place.
ROOM_REACH = (0.35, 0.35, 25.0, 5.0)
STREET_REACH = (3.0, 0.8, 10.0, 3.0)

_X, _Y, _Z = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


class _Builder:
    """A scene under construction, with its random stream."""

    def __init__(self, rng: np.random.Generator, scene: Scene) -> None:
        self.rng, self.scene = rng, scene
        self.taken: list[tuple[float, float, float]] = []  # x, z, radius of what stands on the ground

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self.rng.random()

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def pick(self, items):
        return items[int(self.rng.integers(len(items)))]

    def paint(
        self,
        textures: str,
        value: tuple[float, float] = (0.1, 0.7),
        saturation: float = 0.5,
        tile: tuple[float, float] = (1.0, 2.5),
        contrast: float = 0.5,
        hue: float | None = None,
    ) -> int:
        """A material of a random colour in one of the given textures; its tile is square."""
        hue = self.rng.random() if hue is None else hue
        light = _hsv(hue, saturation * self.uniform(0.25, 1), self.uniform(*value))
        factor = 1 - contrast * self.uniform(0.6, 1.2)
        dark = tuple(c * max(0.05, factor) for c in light)
        size = self.uniform(*tile)
        return self.material(self.pick(textures.split()), dark, light, (size, size))

    def material(self, texture: str, dark, light, tile) -> int:
        offset = tuple(self.rng.random(2))
        if texture in ("road", "shelves", "picture"):
            offset = (0.5, 0.5)  # the tile is centred on its surface
        return self.scene.material(TEXTURE_INDEX[texture], dark, light, tile, offset)

    def place(self, x: float, z: float, radius: float) -> bool:
        """Claim a disc of ground; False if it is taken."""
        if any((x - a) ** 2 + (z - b) ** 2 < (radius + r) ** 2 for a, b, r in self.taken):
            return False
        self.taken.append((x, z, radius))
        return True

    def block(self, x, z, half_x, half_z, bottom, height, yaw, material, top=None) -> None:
        """A box given by its footprint, the height of its bottom above the ground and its own height."""
        self.scene.box((x, -bottom - height / 2, z), (half_x, height / 2, half_z), yaw, material, top)

    def legs(self, x, z, half_x, half_z, height, yaw, material, thick=0.025) -> None:
        """Four legs below a table or chair."""
        c, s = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
        for u, v in ((-half_x, -half_z), (-half_x, half_z), (half_x, -half_z), (half_x, half_z)):
            self.block(x + c * u + s * v, z - s * u + c * v, thick, thick, 0, height, yaw, material)


def _hsv(hue: float, saturation: float, value: float) -> tuple[float, float, float]:
    k = ((5 + 6 * hue) % 6, (3 + 6 * hue) % 6, (1 + 6 * hue) % 6)
    return tuple(value * (1 - saturation * max(0.0, min(a, 4 - a, 1.0))) for a in k)


def _unit(x: float, y: float, z: float) -> np.ndarray:
    v = np.array([x, y, z])
    return v / math.sqrt(x * x + y * y + z * z)


def room(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Scene, Camera]:
    """A furnished room; no surface is further than `ROOM_RANGE` allows.

    Args:
        rng: random stream; it decides everything.
        shape: (H, W) of the picture.
    """
    light = _unit(rng.uniform(-0.5, 0.5), -1.0, rng.uniform(-0.6, 0.3))
    scene = Scene(light, rng.uniform(0.25, 0.55), rng.uniform(0.3, 0.5), ROOM_RANGE)
    b = _Builder(rng, scene)
    width, length, height = b.uniform(3.0, 6.5), b.uniform(3.5, 8.5), b.uniform(2.3, 3.0)
    tall = b.uniform(1.0, min(1.8, height - 0.8))
    eye = (b.uniform(0.8 - width / 2, width / 2 - 0.8), -tall, b.uniform(0.8, 1.2))
    # Looks towards the middle of the room, so that walls to the side stay beyond half a metre.
    aim = math.degrees(math.atan2(-eye[0], length / 2 - eye[2]))
    yaw = aim * b.uniform(0.2, 1.0) + b.uniform(-12, 12)
    camera = Camera.aimed(shape, b.uniform(60, 78), eye, yaw, b.uniform(-4, 16), b.uniform(-2, 2))
    b.place(eye[0], eye[2], 0.6)  # nothing nearer than half a metre
    scene.lamp = np.array([b.uniform(-1, 1), 0.3 - height, b.uniform(1.5, length - 0.5)])

    floor = b.paint("planks planks tiles checker plaster grain", (0.2, 0.6), 0.5, (1.5, 2.5))
    scene.rect((0, 0, length / 2), _X, _Z, (width / 2, length / 2), floor, ground=True)
    ceiling = b.paint("plaster", (0.65, 0.9), 0.08, (2, 4), 0.15)
    scene.rect((0, -height, length / 2), _X, _Z, (width / 2, length / 2), ceiling)
    wall = b.paint("plaster plaster stripes dots bricks marble", (0.4, 0.9), 0.4, (1.5, 3), 0.3)
    walls = []  # centre of the wall, its axis, half its length, direction into the room
    for centre, axis, half, inward in (
        ((0, -height / 2, length), _X, width / 2, (0, -1)),
        ((0, -height / 2, 0), _X, width / 2, (0, 1)),
        ((-width / 2, -height / 2, length / 2), _Z, length / 2, (1, 0)),
        ((width / 2, -height / 2, length / 2), _Z, length / 2, (-1, 0)),
    ):
        own = b.paint("plaster bricks marble", (0.4, 0.9), 0.4, (1.5, 3), 0.3) if b.chance(0.25) else wall
        scene.rect(centre, axis, _Y, (half, height / 2), own)
        walls.append((centre, axis, half, inward))
    for centre, axis, half, inward in (walls[0], walls[2], walls[3]):
        _hang(b, centre, axis, half, inward, height)
    skirting = b.paint("planks plaster", (0.3, 0.9), 0.3)
    for centre, axis, half, inward in walls:
        at = (centre[0] + 0.012 * inward[0], -0.05, centre[2] + 0.012 * inward[1])
        scene.rect(at, axis, _Y, (half, 0.05), skirting)
    for _ in range(int(rng.integers(8, 22))):
        _furnish(b, width, length, height)
    return scene, camera


def _hang(b: _Builder, centre, axis, half, inward, height: float) -> None:
    """Pictures, a door or a window on a wall, side by side."""
    edge = -half + b.uniform(0.2, 0.8)
    while edge < half - 0.5:
        kind = b.pick(("picture", "picture", "door", "window", "gap"))
        w, h, middle = {
            "picture": (b.uniform(0.3, 1.0), b.uniform(0.3, 0.9), 1.55),
            "door": (0.9, 2.0, 1.0),
            "window": (b.uniform(0.8, 1.6), 1.1, 1.5),
            "gap": (b.uniform(0.3, 1.0), 0.0, 0.0),
        }[kind]
        if edge + w > half - 0.1:
            break
        out = 0.02
        at = [centre[0] + inward[0] * out, -min(middle, height - h / 2 - 0.1), centre[2] + inward[1] * out]
        at[0 if axis is _X else 2] += edge + w / 2
        if kind == "picture":
            frame = b.paint("planks", (0.05, 0.6), 0.6)
            b.scene.rect(at, axis, _Y, (w / 2 + 0.03, h / 2 + 0.03), frame)
            at[0], at[2] = at[0] + inward[0] * 0.01, at[2] + inward[1] * 0.01
            hue = b.rng.random()
            dark, light = _hsv(hue, 0.8, 0.3), _hsv(hue + b.uniform(0.2, 0.7), 0.6, 0.9)
            b.scene.rect(at, axis, _Y, (w / 2, h / 2), b.material("picture", dark, light, (w, h)))
        elif kind == "door":
            b.scene.rect(at, axis, _Y, (w / 2, h / 2), b.paint("planks plaster", (0.3, 0.9), 0.5, (1, 2)))
        elif kind == "window":
            # One cell of the texture, whose pane is centred at (0.625, 0.62) of the tile.
            tile, frame = (4 * w / 0.7, 4 * h / 0.7), _hsv(0.1, b.uniform(0, 0.5), b.uniform(0.3, 0.9))
            glass = b.scene.material(TEXTURE_INDEX["windows"], frame, (0.75, 0.9, 1.0), tile, (0.625, 0.62))
            b.scene.rect(at, axis, _Y, (w / 2, h / 2), glass)
        edge += w + b.uniform(0.15, 0.8)


def _furnish(b: _Builder, width: float, length: float, height: float) -> None:
    """One piece of furniture, if there is room for it."""
    kinds = (
        "shelf shelf cabinet cabinet table table table chair chair chair sofa sofa ball ball lamp boxes boxes"
    )
    kind = b.pick([*kinds.split(), "column"])
    if kind in ("shelf", "cabinet", "sofa"):  # stands with its back to a wall
        hx, hz = b.uniform(0.35, 1.0), b.uniform(0.15, 0.3) if kind != "sofa" else 0.42
        side = b.pick((0, 90, -90))
        if side == 0:
            x, z = b.uniform(hx - width / 2, width / 2 - hx), length - hz - 0.03
        else:
            x = math.copysign(width / 2 - hz - 0.03, side)
            z = b.uniform(0.4 + hx, length - hx)
        if not b.place(x, z, max(0.75 * hx, hz)):
            return
    else:
        hx, hz, side = b.uniform(0.35, 0.8), b.uniform(0.3, 0.45), b.uniform(0, 90)
        radius = {"table": math.hypot(hx, hz), "chair": 0.33, "boxes": 0.4, "ball": 0.3}.get(kind, 0.25)
        x, z = b.uniform(radius - width / 2, width / 2 - radius), b.uniform(0.9, length - radius)
        if not b.place(x, z, radius):
            return
    wood = b.paint("planks planks plaster grain", (0.1, 0.8), 0.6, (0.8, 1.6))
    if kind == "shelf":
        tall = b.uniform(1.0, 2.1)
        books = b.material("shelves", (0.05, 0.04, 0.03), _hsv(b.rng.random(), 0.4, 0.8), (1.4, 1.4))
        b.block(x, z, hx, hz, 0, tall, side, books, wood)
    elif kind == "cabinet":
        tall = b.uniform(0.6, 1.2)
        b.block(x, z, hx, hz, 0, tall, side, wood)
        _top_up(b, x, z, tall)
    elif kind == "sofa":
        cloth = b.paint("grain stripes dots plaster", (0.1, 0.7), 0.8, (0.5, 1.5))
        back = math.radians(side)
        b.block(x, z, hx, hz, 0, 0.42, side, cloth)
        b.block(x + 0.3 * math.sin(back), z + 0.3 * math.cos(back), hx, 0.12, 0.42, 0.4, side, cloth)
    elif kind == "table":
        tall = b.uniform(0.45, 0.8)
        b.block(x, z, hx, hz, tall - 0.04, 0.04, side, wood)
        b.legs(x, z, hx - 0.05, hz - 0.05, tall - 0.04, side, wood)
        _top_up(b, x, z, tall)
    elif kind == "chair":
        b.block(x, z, 0.21, 0.21, 0.43, 0.04, side, wood)
        b.legs(x, z, 0.18, 0.18, 0.43, side, wood, 0.018)
        back = math.radians(side)
        b.block(x + 0.19 * math.sin(back), z + 0.19 * math.cos(back), 0.21, 0.02, 0.47, 0.42, side, wood)
    elif kind == "ball":
        radius = b.uniform(0.1, 0.3)
        skin = b.paint("checker dots stripes marble", (0.4, 0.9), 0.9, (0.3, 0.9), 0.8)
        b.scene.sphere((x, -radius, z), radius, skin)
    elif kind == "lamp":
        b.scene.pole(x, z, 0.02, -1.5, 0, wood)
        b.scene.sphere((x, -1.6, z), 0.18, b.paint("plaster", (0.9, 1.0), 0.3, contrast=0.1))
    elif kind == "column":
        stone = b.paint("marble plaster bricks", (0.4, 0.9), 0.3)
        b.scene.pole(x, z, b.uniform(0.1, 0.25), -height, 0, stone)
    else:
        bottom = 0.0
        for _ in range(int(b.rng.integers(1, 4))):
            size = b.uniform(0.12, 0.28)
            card = b.paint("plaster grain stripes picture", (0.3, 0.8), 0.7, (0.5, 1.0))
            b.block(x, z, size, size, bottom, 1.4 * size, b.uniform(0, 90), card)
            bottom += 1.4 * size


def _top_up(b: _Builder, x: float, z: float, height: float) -> None:
    """Small things on a table."""
    for _ in range(int(b.rng.integers(0, 3))):
        u, v, size = x + b.uniform(-0.2, 0.2), z + b.uniform(-0.2, 0.2), b.uniform(0.05, 0.14)
        skin = b.paint("checker dots stripes picture marble", (0.3, 0.9), 0.9, (0.2, 0.6), 0.7)
        if b.chance(0.5):
            b.scene.sphere((u, -height - size, v), size, skin)
        else:
            b.block(u, v, size, 0.7 * size, height, 2.5 * size, b.uniform(0, 90), skin)


def street(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Scene, Camera]:
    """A street with houses, trees, cars and people under an open sky.

    Args:
        rng: random stream; it decides everything.
        shape: (H, W) of the picture.
    """
    sun = _unit(rng.uniform(-1, 1), -rng.uniform(0.5, 1.2), rng.uniform(-1, 0.6))
    scene = Scene(sun, rng.uniform(0.5, 0.8), rng.uniform(0.25, 0.4), STREET_RANGE)
    b = _Builder(rng, scene)
    scene.haze = b.uniform(150, 600)
    grey = b.uniform(0, 1)
    horizon = tuple(b.uniform(0.6, 0.85) * (1 - 0.1 * grey * k) for k in (1, 0.5, 0))
    scene.sky = horizon, (0.55 - 0.45 * grey, 0.6 - 0.3 * grey, 0.75)
    road, walk = b.uniform(3.2, 5.0), b.uniform(1.5, 3.5)
    eye = (b.uniform(-0.6, 0.6) * road, -b.uniform(1.4, 1.9), 0.0)
    fov, yaw = b.uniform(60, 85), b.uniform(-12, 12)
    camera = Camera.aimed(shape, fov, eye, yaw, b.uniform(-3, 5), b.uniform(-1, 1))

    asphalt = _hsv(0.1, 0.05, b.uniform(0.06, 0.14))
    lanes = b.material("road", asphalt, (0.8, 0.8, 0.75), (2 * road, 16))
    scene.rect((0, 0, 90), _X, _Z, (road, 110), lanes, ground=True)
    paving = b.paint("tiles grain bricks", (0.25, 0.5), 0.15, (1.5, 3), 0.3)
    verge = b.paint("grass grass grain", (0.15, 0.35), 0.6, (3, 6), 0.5, hue=b.uniform(0.2, 0.33))
    for side in (-1, 1):
        scene.rect((side * (road + walk / 2), 0, 90), _X, _Z, (walk / 2, 110), paving, ground=True)
        scene.rect((side * (road + walk + 50), 0, 90), _X, _Z, (50, 110), verge, ground=True)
        _houses(b, side, road + walk)
        _kerb(b, side, road, walk)
    if b.chance(0.3):  # a house closes the street
        z = b.uniform(45, 140)
        b.block(b.uniform(-6, 6), z, b.uniform(8, 16), 5, 0, b.uniform(5, 14), b.uniform(-10, 10), _facade(b))
    for _ in range(int(rng.integers(1, 5))):
        x = b.pick((-0.5, 0.5)) * road
        z = b.uniform(8, 70)
        if b.place(x, z, 3):
            _car(b, x, z, b.uniform(-6, 6))
    return scene, camera


def _facade(b: _Builder) -> int:
    kind = b.rng.random()
    if kind < 0.7:
        wall = _hsv(b.rng.random() * 0.15, b.uniform(0.05, 0.5), b.uniform(0.25, 0.8))
        pane = _hsv(0.6, 0.3, b.uniform(0.02, 0.12))
        storey = b.uniform(2.7, 3.4)
        return b.material("windows", wall, pane, (4 * storey * b.uniform(0.8, 1.3), 4 * storey))
    return b.paint("bricks plaster planks", (0.2, 0.7), 0.5, (2, 4), 0.4, hue=b.rng.random() * 0.12)


def _houses(b: _Builder, side: int, start: float) -> None:
    """A row of houses, trees and walls along one side."""
    z = b.uniform(-12, 4)
    dense = b.uniform(0.4, 1.0)
    setback = b.uniform(0, 6)
    while z < 130:
        deep = b.uniform(6, 18)
        if b.chance(dense):
            half = b.uniform(4, 8)
            x = side * (start + setback + b.uniform(0, 1.5) + half)
            tall = b.uniform(3.5, 9) if b.chance(0.6) else b.uniform(9, 22)
            roof = b.paint("tiles planks", (0.1, 0.35), 0.6, (2, 4), hue=b.rng.random() * 0.08)
            b.block(x, z + deep / 2, half, deep / 2, 0, tall, 0, _facade(b), roof)
            if tall < 9 and b.chance(0.6):
                b.block(x, z + deep / 2, half + 0.4, deep / 2 + 0.4, tall, b.uniform(0.3, 1.2), 0, roof)
        elif b.chance(0.6):
            _tree(b, side * (start + setback + b.uniform(1.5, 6)), z + deep / 2, b.uniform(1.0, 1.8))
        else:
            hedge = b.paint("foliage bricks", (0.1, 0.35), 0.6, (1.5, 3), 0.7, hue=b.uniform(0.2, 0.33))
            b.block(side * (start + 0.6), z + deep / 2, 0.3, deep / 2, 0, b.uniform(0.8, 1.8), 0, hedge)
        z += deep + (0 if b.chance(0.4) else b.uniform(0.5, 8))


def _kerb(b: _Builder, side: int, road: float, walk: float) -> None:
    """What stands along the kerb: lamp posts, trees, signs, people, parked cars."""
    z = b.uniform(4, 12)
    while z < 75:
        x = side * (road + b.uniform(0.3, 0.8))
        kind = b.pick(("lamp", "tree", "tree", "sign", "people", "people", "car", "car", "bin", "gap"))
        if kind == "lamp":
            metal = b.paint("plaster", (0.1, 0.4), 0.2, contrast=0.2)
            tall = b.uniform(4, 8)
            b.scene.pole(x, z, 0.08, -tall, 0, metal)
            b.block(x - side * 0.5, z, 0.7, 0.12, tall, 0.12, 0, metal)
        elif kind == "tree":
            _tree(b, x, z, b.uniform(0.6, 1.3))
        elif kind == "sign":
            b.scene.pole(x, z, 0.04, -2.6, 0, b.paint("plaster", (0.3, 0.6), 0.05, contrast=0.1))
            colour = b.material("picture", (0.9, 0.9, 0.9), _hsv(b.pick((0.0, 0.6)), 0.9, 0.8), (0.7, 0.7))
            b.scene.rect((x, -2.3, z - 0.06), _X, _Y, (0.35, 0.35), colour)
        elif kind == "people":
            for _ in range(int(b.rng.integers(1, 4))):
                _person(b, side * (road + b.uniform(0.6, walk)), z + b.uniform(-1.5, 1.5))
        elif kind == "bin":
            b.block(x, z, 0.3, 0.3, 0, 1.1, b.uniform(0, 30), b.paint("plaster grain", (0.1, 0.5), 0.8))
        elif kind == "car" and b.place(side * (road - 1.0), z, 2.4):
            _car(b, side * (road - 1.0), z, b.uniform(-3, 3))
        z += b.uniform(3, 14)


def _car(b: _Builder, x: float, z: float, yaw: float) -> None:
    paint = b.paint("plaster", (0.05, 0.8), 0.9, (3, 5), 0.15)
    glass = b.material("plaster", (0.02, 0.03, 0.04), (0.12, 0.15, 0.18), (2, 2))
    tyre = b.material("grain", (0.01, 0.01, 0.01), (0.05, 0.05, 0.05), (1, 1))
    half, wide, low = b.uniform(1.9, 2.4), b.uniform(0.8, 0.95), b.uniform(0.55, 0.8)
    b.block(x, z, wide, half, 0.28, low, yaw, paint)
    b.block(x, z, wide - 0.1, 0.6 * half, 0.28 + low, 0.5, yaw, glass, paint)
    b.block(x, z, wide - 0.05, 0.8 * half, 0.0, 0.3, yaw, tyre)


def _tree(b: _Builder, x: float, z: float, size: float) -> None:
    bark = b.paint("planks grain", (0.08, 0.25), 0.5, (0.5, 1.0), hue=0.08)
    leaves = b.paint("foliage", (0.15, 0.45), 0.8, (1.0, 2.5), 0.8, hue=b.uniform(0.15, 0.33))
    trunk = 2.2 * size
    b.scene.pole(x, z, 0.14 * size, -trunk - 0.5 * size, 0, bark)
    for _ in range(int(b.rng.integers(2, 5))):
        radius = size * b.uniform(0.7, 1.2)
        u, v = b.uniform(-0.6, 0.6) * size, b.uniform(-0.6, 0.6) * size
        b.scene.sphere((x + u, -trunk - size * b.uniform(0.3, 1.6), z + v), radius, leaves)


def _person(b: _Builder, x: float, z: float) -> None:
    coat = b.paint("plaster stripes grain", (0.05, 0.8), 0.8, (0.4, 1.0))
    trousers = b.paint("plaster grain", (0.03, 0.3), 0.5, (0.5, 1.0))
    skin = b.material("plaster", (0.35, 0.2, 0.13), (0.6, 0.42, 0.32), (0.5, 0.5))
    tall = b.uniform(1.5, 1.9)
    for leg in (-0.09, 0.09):
        b.scene.pole(x + leg, z, 0.075, -0.48 * tall, 0, trousers)
    b.scene.pole(x, z, 0.2, -0.86 * tall, -0.46 * tall, coat)
    b.scene.sphere((x, -0.93 * tall, z), 0.075 * tall, skin)
