"""Synthetic long-wave infrared scenes in kelvin: a backdrop, things that move, a camera that pans.

Temperatures are what a thermal camera reports for the surface (clear sky and glass look cold, skin and engines warm),
not a radiative simulation; they are plausible, so that contrast, polarity and noise behave as in real frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from msip.synthetic.sprites import (
    Actor,
    Animal,
    Car,
    CarFromAbove,
    Kelvin,
    Pedestrian,
    PersonFromAbove,
    Ship,
    Sprite,
    Track,
)
from msip.synthetic.texture import clouds, ramp

Box = tuple[float, float, float, float]  # left, top, right, bottom in px
Kind = Literal["street", "yard", "aerial", "sea", "field"]
Casting = Callable[[np.random.Generator, "Backdrop", int, int], list[Actor]]


@dataclass
class Backdrop:
    """What does not move: ``kelvin`` (h, w), and ``ground``: the highest row (as a share of h) that things stand on."""

    kelvin: Kelvin
    ground: float


class Scene:
    """One scene, the same at every call: draw any frame of its video, in any order."""

    def __init__(self, rng: np.random.Generator, *, width: int, height: int, kind: Kind) -> None:
        self.width, self.height = width, height
        self._margin = max(height // 10, 8)
        build, cast = KINDS[kind]
        shape = height + 2 * self._margin, width + 2 * self._margin
        self._backdrop = build(rng, *shape)
        self._backdrop.kelvin = _weathered(rng, self._backdrop.kelvin)
        self.actors = sorted(cast(rng, self._backdrop, height, width), key=lambda actor: actor.track.y)
        self._pan = rng.uniform(0.15, 0.85, 2) * self._margin
        self._rate = rng.uniform(0.01, 0.03, 2)
        self._phase = rng.uniform(0, 2 * np.pi, 2)

    def kelvin(self, frame: int = 0) -> Kelvin:
        """Apparent temperature (height, width), float32, in kelvin, of one frame before optics and noise."""
        pan = self._pan * np.sin(self._rate * frame + self._phase)
        matrix = np.array([[1, 0, pan[0] - self._margin], [0, 1, pan[1] - self._margin]], np.float32)
        size = self.width, self.height
        canvas = cv2.warpAffine(
            self._backdrop.kelvin, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        for actor in self.actors:
            actor.paint(canvas, frame, (float(pan[0]), float(pan[1])))
        return canvas

    def box(self, frame: int) -> tuple[int, int, int, int]:
        """Box (x, y, width, height) of the scene's nearest thing, clipped to the frame: what a tracker follows."""
        x, y, width, height = self.actors[-1].box(frame)
        left, top = min(max(x, 0), self.width - 1), min(max(y, 0), self.height - 1)
        return left, top, max(min(x + width, self.width) - left, 1), max(min(y + height, self.height) - top, 1)


def render_scene(rng: np.random.Generator, *, width: int, height: int, kind: Kind, frame: int = 0) -> Kelvin:
    """One frame (height, width), float32, in kelvin, of the scene that ``rng`` makes (same state, same video)."""
    return Scene(rng, width=width, height=height, kind=kind).kelvin(frame)


def _weathered(rng: np.random.Generator, kelvin: Kelvin) -> Kelvin:
    """No surface is one temperature and no edge is straight: bend the drawing a little and give it grain."""
    height, width = kelvin.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    bend = [clouds(rng, height, width, cell=10, octaves=3) * np.float32(0.5) for _ in range(2)]
    bent = cv2.remap(
        kelvin.astype(np.float32), x + bend[0], y + bend[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    fine = clouds(rng, height, width, cell=3, octaves=2, stretch=1.4) * (
        1 + clouds(rng, height, width, cell=height / 5) * 0.4
    )
    coarse = clouds(rng, height, width, cell=height / 6, octaves=4)
    solid = np.clip((bent - 272) / 8, 0.06, 1)  # the sky has no grain
    return (bent + solid * (0.38 * fine + 0.4 * coarse)).astype(np.float32)


def _rectangle(canvas: Kelvin, box: Box, kelvin: float) -> None:
    left, top, right, bottom = box
    _polygon(canvas, [(left, top), (right, top), (right, bottom), (left, bottom)], kelvin)


def _polygon(canvas: Kelvin, points: list[tuple[float, float]], kelvin: float, soft: float = 0.4) -> None:
    xs, ys = zip(*points, strict=True)
    sprite = Sprite(min(xs), min(ys), max(xs), max(ys))
    sprite.polygon(points, kelvin)
    sprite.blend(canvas, soft=soft)


def _sky(rng: np.random.Generator, height: int, width: int) -> Kelvin:
    """Cold overhead, warmer towards the horizon, with clouds."""
    cover = np.clip(clouds(rng, height, width, cell=height / 3 + 4, octaves=4, stretch=2.5), -0.5, 2.5)
    return ramp(height, width, rng.uniform(256, 266), rng.uniform(273, 279)) + cover * np.float32(rng.uniform(1, 3))


def _facade(rng: np.random.Generator, canvas: Kelvin, box: Box) -> None:
    """One building: wall, roof edge, a grid of windows, some lit or heated."""
    left, top, right, bottom = box
    wall = rng.uniform(280.5, 287.5)
    _rectangle(canvas, (left, top, right, bottom), wall)
    _rectangle(canvas, (left, top, right, top + 2), wall - rng.uniform(1, 3))
    rows, columns = max(int((bottom - top) / 26), 1), max(int((right - left) / 24), 1)
    step_y, step_x = (bottom - top) / (rows + 0.4), (right - left) / (columns + 0.4)
    for row in range(rows):
        for column in range(columns):
            x, y = left + (column + 0.4) * step_x, top + (row + 0.45) * step_y
            kelvin = wall + (rng.uniform(2, 6) if rng.uniform() < 0.3 else -rng.uniform(1, 5))
            _rectangle(canvas, (x, y, x + 0.55 * step_x, y + 0.55 * step_y), kelvin)
            _rectangle(canvas, (x, y + 0.6 * step_y, x + 0.55 * step_x, y + 0.66 * step_y), wall + 1.5)


def _tree(rng: np.random.Generator, canvas: Kelvin, x: float, foot: float, size: float, *, trunk: bool = True) -> None:
    """A crown of overlapping leaf clusters, each a little warmer or colder, on a trunk."""
    base = rng.uniform(282, 286)
    sprite = Sprite(x - size, foot - 2.2 * size, x + size, foot + 1)
    if trunk:
        sprite.limb([(x, foot), (x + rng.uniform(-0.1, 0.1) * size, foot - size)], 0.13 * size, base + 2.5)
    centre = foot - 1.25 * size if trunk else foot - size
    for _ in range(60):
        angle, far = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform()) * 0.8 * size
        radius = size * rng.uniform(0.07, 0.19)
        leaves = x + far * np.cos(angle), centre + far * np.sin(angle)
        sprite.ellipse(leaves, (radius, 0.7 * radius), base + rng.normal(0, 0.7), angle=rng.uniform(0, 180))
    sprite.blend(canvas, soft=0.9, folds=clouds(rng, 32, 32, cell=4) * np.float32(1.0))


def _street(rng: np.random.Generator, height: int, width: int) -> Backdrop:
    horizon = round(height * rng.uniform(0.34, 0.46))
    kelvin = np.vstack([_sky(rng, horizon, width), ramp(height - horizon, width, 284.5, 288.5)])
    grain = clouds(rng, height - horizon, width, cell=14, octaves=4, stretch=2.5)
    kelvin[horizon:] += grain * np.float32(0.35)
    vanish = width * rng.uniform(0.35, 0.65)
    left, right = rng.uniform(-0.5, 0.05) * width, rng.uniform(0.95, 1.5) * width
    road = [(vanish - 4, horizon), (vanish + 4, horizon), (right, height), (left, height)]
    sprite = Sprite(left, horizon, right, height)
    sprite.polygon(road, rng.uniform(288, 291))
    for share in np.linspace(0, 1, 7) ** 1.6:
        y = horizon + 6 + share * (height - horizon)
        middle = vanish + ((left + right) / 2 - vanish) * (y - horizon) / (height - horizon)
        reach = 0.05 * (y - horizon)
        sprite.polygon(
            [
                (middle - 0.2 * reach, y),
                (middle + 0.2 * reach, y),
                (middle + 0.3 * reach, y + 2 * reach),
                (middle - 0.3 * reach, y + 2 * reach),
            ],
            287,
        )
    folds = clouds(rng, 96, 96, cell=12, octaves=4, stretch=2) * np.float32(0.5)
    sprite.blend(kelvin, soft=0.5, folds=folds)
    x = -10.0
    while x < width:
        wide, tall = rng.uniform(0.12, 0.3) * width, rng.uniform(0.35, 0.95) * horizon
        if abs(x + wide / 2 - vanish) > 0.1 * width:
            _facade(rng, kelvin, (x, horizon - tall, x + wide, horizon + 5))
        x += wide + rng.uniform(0, 0.06) * width
    for _ in range(int(rng.integers(3, 7))):
        size = rng.uniform(0.08, 0.2) * height
        _tree(rng, kelvin, rng.uniform(0, width), horizon + 0.35 * size, size)
    for x in rng.uniform(0, width, 3):
        _polygon(
            kelvin,
            [(x, horizon * 0.35), (x + 1.6, horizon * 0.35), (x + 2.4, horizon + 12), (x - 0.8, horizon + 12)],
            285,
        )
        _rectangle(kelvin, (x - 1, horizon * 0.33, x + 7, horizon * 0.33 + 3), rng.uniform(295, 315))
    return Backdrop(kelvin, (horizon + 0.12 * height) / height)


def _yard(rng: np.random.Generator, height: int, width: int) -> Backdrop:
    """A courtyard from a wall-mounted camera: paving, lawn, a house front, a fence, shadows that stay cold."""
    wall = round(height * rng.uniform(0.22, 0.34))
    kelvin = ramp(height, width, 285, 289) + clouds(rng, height, width, cell=40, octaves=5) * np.float32(0.4)
    slant, step = rng.uniform(-0.35, 0.35), height * rng.uniform(0.1, 0.16)
    for number in range(int(2 * width / step)):
        x = number * step - width / 2
        _polygon(
            kelvin,
            [(x, wall), (x + 1.2, wall), (x + 1.6 + slant * height, height), (x + slant * height, height)],
            286.7,
        )
    for number in range(1, 8):
        y = wall + (height - wall) * (number / 8) ** 1.4
        _rectangle(kelvin, (0, y, width, y + 1.3), 286.8)
    lawn = [(0, height * 0.62), (width * rng.uniform(0.2, 0.45), wall + 4), (0, wall)]
    _polygon(kelvin, lawn, rng.uniform(281.5, 283.5), soft=2)
    shade = width * rng.uniform(0.5, 0.8)
    _polygon(
        kelvin, [(shade, wall), (width, wall), (width, height * 0.8), (shade + 0.1 * width, height * 0.7)], 283, soft=3
    )
    _facade(rng, kelvin, (-5, -0.2 * height, width + 5, wall))
    door = width * rng.uniform(0.2, 0.7)
    _rectangle(kelvin, (door, wall * 0.3, door + 0.09 * width, wall), rng.uniform(288, 292))
    for x in np.arange(0, width, max(width / 22, 9)):
        _rectangle(kelvin, (x, wall - 6, x + 1.4, wall + 0.09 * height), 284)
    _rectangle(kelvin, (0, wall - 4, width, wall - 2.5), 284)
    _tree(rng, kelvin, width * rng.uniform(0.75, 0.95), wall + 0.3 * height, 0.2 * height)
    return Backdrop(kelvin, wall / height + 0.22)


def _aerial(rng: np.random.Generator, height: int, width: int) -> Backdrop:
    """Grass and paving from the air, crossed by roads, with roofs, trees and parking rows."""
    patches = clouds(rng, height, width, cell=height / 2, octaves=3)
    kelvin = np.where(patches > 0.2, np.float32(289.5), np.float32(285)).astype(np.float32)
    kelvin = cv2.GaussianBlur(kelvin, (0, 0), 1.5) + clouds(rng, height, width, cell=16, octaves=5) * np.float32(0.5)
    middle, half = height * rng.uniform(0.4, 0.6), height * rng.uniform(0.1, 0.15)
    _rectangle(kelvin, (0, middle - half - 5, width, middle + half + 5), 287)
    _rectangle(kelvin, (0, middle - half, width, middle + half), 293)
    for x in np.arange(0, width, height / 9):
        _rectangle(kelvin, (x, middle - 1, x + height / 18, middle + 1), 289.5)
    cross = width * rng.uniform(0.15, 0.85)
    _polygon(
        kelvin, [(cross, 0), (cross + 1.5 * half, 0), (cross + 1.2 * half, height), (cross - 0.3 * half, height)], 292.5
    )
    for _ in range(int(rng.integers(2, 5))):
        _roof(rng, kelvin, middle, half)
    for _ in range(int(rng.integers(8, 18))):
        y = rng.choice([rng.uniform(0, middle - half), rng.uniform(middle + 1.6 * half, height)])
        _tree(rng, kelvin, rng.uniform(0, width), y, rng.uniform(0.03, 0.07) * height, trunk=False)
    kelvin[round(middle - half) : round(middle + half)] += clouds(
        rng, round(middle + half) - round(middle - half), width, cell=10, stretch=6
    ) * np.float32(0.5)
    return Backdrop(kelvin, middle / height)


def _roof(rng: np.random.Generator, kelvin: Kelvin, middle: float, half: float) -> None:
    """A flat roof with its sun-warmed wall, a cold shadow and some machines on it."""
    height, width = kelvin.shape
    wide, deep = rng.uniform(0.12, 0.25) * width, rng.uniform(0.14, 0.22) * height
    x = rng.uniform(-0.05, 0.85) * width
    y = rng.choice(
        [rng.uniform(-0.05 * height, middle - half - deep - 8), rng.uniform(middle + half + 12, height - 0.5 * deep)]
    )
    _polygon(
        kelvin,
        [(x + 6, y + 8), (x + wide + 9, y + 8), (x + wide + 9, y + deep + 9), (x + 6, y + deep + 9)],
        281,
        soft=2,
    )
    roof = rng.uniform(278, 300)
    _rectangle(kelvin, (x, y, x + wide, y + deep), roof)
    _rectangle(kelvin, (x + 3, y + 3, x + wide - 3, y + deep - 3), roof + 1.5)
    for _ in range(4):
        left, top = x + rng.uniform(0.1, 0.8) * wide, y + rng.uniform(0.1, 0.8) * deep
        _rectangle(kelvin, (left, top, left + 0.08 * wide, top + 0.09 * deep), roof + rng.uniform(-6, 14))


def _sea(rng: np.random.Generator, height: int, width: int) -> Backdrop:
    """Sky with clouds, far hills, water whose waves grow towards the camera."""
    horizon = round(height * rng.uniform(0.36, 0.5))
    kelvin = np.vstack([_sky(rng, horizon, width), ramp(height - horizon, width, 281, 285.5)])
    depth = height - horizon
    far = clouds(rng, depth, width, cell=5, octaves=2, stretch=9) * ramp(depth, width, 1, 0.2)
    near = clouds(rng, depth, width, cell=14, octaves=4, stretch=4) * ramp(depth, width, 0, 1)
    kelvin[horizon:] += (far + near) * np.float32(rng.uniform(0.4, 0.9))
    if rng.uniform() < 0.7:
        ridge = clouds(rng, 1, width, cell=4, octaves=4, stretch=width / 24)[0]
        tops = horizon - height * (0.035 + 0.018 * ridge) * rng.uniform(0.7, 1.6)
        rows = np.arange(horizon)[:, None]
        land = np.clip(rows - tops[None], 0, 1).astype(np.float32)
        ground = 280 + clouds(rng, horizon, width, cell=9, octaves=3, stretch=2) * np.float32(0.9)
        kelvin[:horizon] += land * (ground - kelvin[:horizon])
    return Backdrop(kelvin.astype(np.float32), horizon / height)


def _field(rng: np.random.Generator, height: int, width: int) -> Backdrop:
    """A meadow with tufts, stones that kept the day's warmth, and a line of trees."""
    horizon = round(height * rng.uniform(0.22, 0.36))
    kelvin = np.vstack([_sky(rng, horizon, width), ramp(height - horizon, width, 282.5, 285.5)])
    depth = height - horizon
    tufts = clouds(rng, depth, width, cell=9, octaves=3, stretch=1.5) * ramp(depth, width, 0.4, 1.1)
    hollows = clouds(rng, depth, width, cell=depth / 3, octaves=2, stretch=3)
    kelvin[horizon:] += tufts * np.float32(0.6) + hollows * np.float32(0.8)
    for x in np.arange(-10, width, width / 24):
        size = rng.uniform(0.06, 0.15) * height
        _tree(rng, kelvin, x + rng.normal(0, 6), horizon + 0.3 * size, size)
    for _ in range(6):
        x, y, size = rng.uniform(0, width), rng.uniform(horizon + 10, height), rng.uniform(2, 7)
        sprite = Sprite(x - size, y - size, x + size, y + size)
        sprite.ellipse((x, y), (size, 0.6 * size), rng.uniform(287, 291))
        sprite.blend(kelvin, soft=0.8)
    return Backdrop(kelvin, horizon / height + 0.2)


def _rows(rng: np.random.Generator, backdrop: Backdrop, height: int, count: int) -> list[tuple[float, float]]:
    """(y, nearness 0 to 1) of ``count`` things on the ground, one of them always near."""
    near = np.append(rng.uniform(0, 0.85, count - 1), rng.uniform(0.75, 0.95))
    top = min(backdrop.ground, 0.8)
    return [(height * (top + (0.97 - top) * share), float(share)) for share in near]


def _speed(rng: np.random.Generator, size: float, low: float, high: float) -> float:
    return float(rng.choice([-1, 1]) * rng.uniform(low, high) * size)


def _people(rng: np.random.Generator, backdrop: Backdrop, height: int, width: int) -> list[Actor]:
    cast: list[Actor] = []
    for y, share in _rows(rng, backdrop, height, int(rng.integers(3, 7))):
        size = height * (0.2 + 0.32 * share)
        cast.append(
            Pedestrian(rng, Track(rng.uniform(0.05, 0.95) * width, y, size, _speed(rng, size, 0.008, 0.02), width))
        )
    return cast


def _traffic(rng: np.random.Generator, backdrop: Backdrop, height: int, width: int) -> list[Actor]:
    cast = _people(rng, backdrop, height, width)
    for y, share in _rows(rng, backdrop, height, int(rng.integers(1, 4)))[:-1]:
        size = height * (0.08 + 0.16 * share)
        speed = _speed(rng, size, 0.03, 0.09) if rng.uniform() < 0.7 else 0.0
        cast.append(Car(rng, Track(rng.uniform(0.1, 0.9) * width, y, size, speed, width)))
    return cast


def _seen_from_above(rng: np.random.Generator, backdrop: Backdrop, height: int, width: int) -> list[Actor]:
    cast: list[Actor] = []
    scale = rng.uniform(0.08, 0.15) * height
    for lane, sign in ((-0.07, -1), (0.045, 1)):
        for _ in range(int(rng.integers(2, 5))):
            size, y = scale * rng.uniform(0.9, 1.4), (backdrop.ground + lane + rng.uniform(-0.008, 0.008)) * height
            cast.append(CarFromAbove(rng, Track(rng.uniform(0, width), y, size, sign * rng.uniform(0.8, 3.0), width)))
    row = height * rng.uniform(0.78, 0.9)
    for place in range(int(rng.integers(4, 9))):
        cast.append(CarFromAbove(rng, Track(width * 0.1 + place * 1.25 * scale, row, scale, 0.0, width)))
    for _ in range(int(rng.integers(3, 9))):
        size = 0.35 * scale
        cast.append(
            PersonFromAbove(
                rng,
                Track(
                    rng.uniform(0, width), rng.uniform(0.05, 0.95) * height, size, _speed(rng, size, 0.01, 0.03), width
                ),
            )
        )
    return cast


def _fleet(rng: np.random.Generator, backdrop: Backdrop, height: int, width: int) -> list[Actor]:
    cast: list[Actor] = []
    for share in np.append(rng.uniform(0, 0.45, int(rng.integers(0, 4))), rng.uniform(0.35, 0.8)):
        size = height * (0.05 + 0.22 * share)
        y = height * (backdrop.ground + 0.03 + 0.32 * share)
        cast.append(Ship(rng, Track(rng.uniform(0.2, 0.8) * width, y, size, _speed(rng, size, 0.004, 0.015), width)))
    return cast


def _herd(rng: np.random.Generator, backdrop: Backdrop, height: int, width: int) -> list[Actor]:
    cast: list[Actor] = []
    for y, share in _rows(rng, backdrop, height, int(rng.integers(2, 6))):
        size = height * (0.1 + 0.26 * share)
        cast.append(Animal(rng, Track(rng.uniform(0.1, 0.9) * width, y, size, _speed(rng, size, 0.008, 0.025), width)))
    return cast


KINDS: dict[Kind, tuple[Callable[[np.random.Generator, int, int], Backdrop], Casting]] = {
    "street": (_street, _traffic),
    "yard": (_yard, _people),
    "aerial": (_aerial, _seen_from_above),
    "sea": (_sea, _fleet),
    "field": (_field, _herd),
}
"""How each kind of scene is built and who moves in it."""
