"""Warm things that move through a synthetic scene: people, cars, ships, animals, drawn in kelvin.

Shapes are drawn with anti-aliasing into a small two-channel patch (coverage and temperature level), softened and
blended once into the scene, which is what keeps a frame of ten articulated people under two milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from msip.synthetic.texture import clouds

Kelvin = NDArray[np.float32]
Point = tuple[float, float]

_SHIFT = 4  # OpenCV draws at 1/16 px
_COLDEST, _HOTTEST = 240.0, 370.0


class Sprite:
    """A patch of a scene to draw into; coordinates are those of the scene, in pixels."""

    def __init__(self, left: float, top: float, right: float, bottom: float) -> None:
        self.x0, self.y0 = int(np.floor(left)) - 2, int(np.floor(top)) - 2
        size = int(np.ceil(bottom)) + 3 - self.y0, int(np.ceil(right)) + 3 - self.x0
        self.patch = np.zeros((max(size[0], 1), max(size[1], 1), 2), np.uint8)

    def polygon(self, points: Sequence[Point], kelvin: float) -> None:
        """Fill a polygon."""
        cv2.fillPoly(self.patch, [self._fixed(points)], self._level(kelvin), cv2.LINE_AA, _SHIFT)

    def ellipse(self, centre: Point, axes: Point, kelvin: float, angle: float = 0.0) -> None:
        """Fill an ellipse of the given half axes, turned by ``angle`` degrees."""
        x, y = self._fixed([centre])[0].tolist()
        half = (max(round(axes[0] * 16), 1), max(round(axes[1] * 16), 1))
        cv2.ellipse(self.patch, (x, y), half, angle, 0, 360, self._level(kelvin), -1, cv2.LINE_AA, _SHIFT)

    def limb(self, points: Sequence[Point], width: float, kelvin: float) -> None:
        """Draw a thick line through ``points``."""
        thickness = max(round(width), 1)
        cv2.polylines(self.patch, [self._fixed(points)], False, self._level(kelvin), thickness, cv2.LINE_AA, _SHIFT)

    def blend(self, canvas: Kelvin, *, soft: float = 0.6, folds: Kelvin | None = None) -> None:
        """Blend into ``canvas`` (h, w); ``soft``: blur in px, ``folds``: a texture in kelvin, stretched over it."""
        height, width = self.patch.shape[:2]
        top, left = max(self.y0, 0), max(self.x0, 0)
        bottom, right = min(self.y0 + height, canvas.shape[0]), min(self.x0 + width, canvas.shape[1])
        if top >= bottom or left >= right:
            return
        patch = self.patch.astype(np.float32) / 255.0
        if soft > 0:
            patch = cv2.GaussianBlur(patch, (0, 0), soft)
        coverage, level = patch[..., 0], patch[..., 1]
        added = coverage * _COLDEST + level * (_HOTTEST - _COLDEST)
        if folds is not None:
            added += coverage * cv2.resize(folds, (width, height), interpolation=cv2.INTER_LINEAR)
        inside = np.s_[top - self.y0 : bottom - self.y0, left - self.x0 : right - self.x0]
        region = canvas[top:bottom, left:right]
        region *= 1.0 - coverage[inside]
        region += added[inside]

    def _fixed(self, points: Sequence[Point]) -> NDArray[np.int32]:
        moved = (np.asarray(points, np.float64) - (self.x0, self.y0)) * (1 << _SHIFT)
        return np.rint(moved).astype(np.int32)

    @staticmethod
    def _level(kelvin: float) -> tuple[float, float]:
        return 255.0, float(np.clip((kelvin - _COLDEST) / (_HOTTEST - _COLDEST), 0, 1) * 255.0)


class Track(NamedTuple):
    """Where something goes: its feet's place in px at frame 0, its height (its length where it is seen from above) in
    px, its speed in px a frame, and the width in px that it crosses before it comes back on the other side."""

    x: float
    y: float
    size: float
    speed: float
    span: float


class Actor:
    """One moving thing: a track and a way to draw itself."""

    reach = (0.6, 1.1)
    """Half width, and extent upwards, in units of ``size``."""

    def __init__(self, rng: np.random.Generator, track: Track) -> None:
        self.track, self.size, self.speed = track, track.size, track.speed
        self.facing = 1.0 if track.speed >= 0 else -1.0
        self.phase = rng.uniform(0, 2 * np.pi)
        self.folds = clouds(rng, 12, 12, cell=4) * np.float32(1.2)

    def position(self, frame: int) -> Point:
        """Where it stands (x of its middle, y of its feet) at ``frame``."""
        margin = self.reach[0] * self.size + 8
        length = self.track.span + 2 * margin
        x = (self.track.x + margin + self.speed * frame) % length - margin
        return x, self.track.y + 0.01 * self.size * np.sin(0.05 * frame + self.phase)

    def box(self, frame: int) -> tuple[int, int, int, int]:
        """Its (x, y, width, height) in px, not clipped."""
        x, y = self.position(frame)
        half, up = self.reach[0] * self.size, self.reach[1] * self.size
        return round(x - half), round(y - up), round(2 * half), round(up)

    def paint(self, canvas: Kelvin, frame: int, offset: Point) -> None:
        """Draw it into ``canvas``, moved by ``offset`` (the camera's pan)."""
        x, y = self.position(frame)
        x, y = x + offset[0], y + offset[1]
        half, up = self.reach[0] * self.size, self.reach[1] * self.size
        sprite = Sprite(x - half, y - up, x + half, y + 0.2 * self.size)
        self._draw(sprite, x, y, frame)
        sprite.blend(canvas, soft=0.35 + 0.006 * self.size, folds=self.folds)

    def _draw(self, sprite: Sprite, x: float, y: float, frame: int) -> None:
        """Draw the shapes; (x, y) is the middle of its feet."""
        raise NotImplementedError


class Pedestrian(Actor):
    """A walking person: warm head and hands, cooler clothes, swinging arms and legs."""

    reach = (0.34, 1.02)

    def __init__(self, rng: np.random.Generator, track: Track) -> None:
        super().__init__(rng, track)
        self.skin = rng.uniform(303.5, 306.5)
        self.coat, self.trousers = rng.uniform(293, 299), rng.uniform(292, 297)
        self.bag = rng.uniform() < 0.4

    def _draw(self, sprite: Sprite, x: float, y: float, frame: int) -> None:
        h, f = self.size, self.facing
        swing = 0.42 * np.sin(self.phase + 0.9 * abs(self.speed) * frame / max(0.02 * h, 0.4) * 0.35)
        hip, neck = (x, y - 0.48 * h), (x + 0.02 * f * h, y - 0.81 * h)
        for side, colder in ((-1.0, 1.2), (1.0, 0.0)):
            knee = (x + 0.24 * h * np.sin(side * swing), y - 0.25 * h)
            foot = (x + 0.4 * h * np.sin(side * swing) - 0.03 * f * h, y - 0.02 * h)
            sprite.limb([hip, knee, foot], 0.085 * h, self.trousers - colder)
            sprite.ellipse((foot[0] + 0.03 * f * h, foot[1]), (0.05 * h, 0.022 * h), self.trousers - 3.5)
        self._arm(sprite, neck, -swing, h, 0.8)
        sprite.limb([hip, neck], 0.17 * h, self.coat)
        sprite.ellipse((neck[0], neck[1] + 0.04 * h), (0.1 * h, 0.06 * h), self.coat + 0.6)
        if self.bag:
            sprite.ellipse((x - 0.1 * f * h, y - 0.68 * h), (0.06 * h, 0.11 * h), self.coat - 5.5)
        self._arm(sprite, neck, swing, h, 0.0)
        sprite.limb([neck, (neck[0], neck[1] - 0.06 * h)], 0.06 * h, self.skin)
        sprite.ellipse((neck[0] + 0.01 * f * h, y - 0.915 * h), (0.052 * h, 0.068 * h), self.skin)
        sprite.ellipse((neck[0] - 0.012 * f * h, y - 0.945 * h), (0.05 * h, 0.045 * h), self.skin - 4.5)

    def _arm(self, sprite: Sprite, neck: Point, swing: float, h: float, colder: float) -> None:
        shoulder = (neck[0], neck[1] + 0.04 * h)
        elbow = (shoulder[0] + 0.17 * h * np.sin(swing), shoulder[1] + 0.17 * h)
        hand = (elbow[0] + 0.16 * h * np.sin(swing + 0.3 * self.facing), elbow[1] + 0.14 * h)
        sprite.limb([shoulder, elbow, hand], 0.06 * h, self.coat - colder)
        sprite.ellipse(hand, (0.026 * h, 0.03 * h), self.skin - 1.5)


class Car(Actor):
    """A car from the side: glass and roof mirror the cold sky, bonnet, wheels and underbody are hot."""

    reach = (1.45, 1.1)

    def __init__(self, rng: np.random.Generator, track: Track) -> None:
        super().__init__(rng, track)
        self.body = rng.uniform(284, 291)
        self.engine = rng.uniform(299, 309) if track.speed else rng.uniform(288, 296)

    def _draw(self, sprite: Sprite, x: float, y: float, frame: int) -> None:
        h, f = self.size, self.facing

        def at(points: Sequence[Point]) -> list[Point]:
            return [(x + f * px * h, y - py * h) for px, py in points]

        sprite.polygon(at([(-1.2, 0.06), (1.2, 0.06), (1.1, 0.2), (-1.1, 0.2)]), (self.engine + self.body) / 2)
        low = [(-1.35, 0.22), (1.32, 0.2), (1.4, 0.42), (1.3, 0.58), (0.72, 0.66), (-1.36, 0.68)]
        sprite.polygon(at(low), self.body)
        sprite.polygon(at([(-1.3, 0.62), (0.78, 0.62), (0.3, 1.0), (-0.85, 1.02)]), self.body - 2.5)
        sprite.polygon(at([(-1.1, 0.66), (-0.32, 0.66), (-0.32, 0.94), (-0.8, 0.94)]), self.body - 6)
        sprite.polygon(at([(-0.2, 0.66), (0.6, 0.66), (0.24, 0.94), (-0.2, 0.94)]), self.body - 5)
        sprite.polygon(at([(0.78, 0.5), (1.36, 0.44), (1.3, 0.57), (0.74, 0.64)]), self.engine - 3)
        sprite.polygon(at([(1.24, 0.26), (1.38, 0.26), (1.38, 0.42), (1.26, 0.46)]), self.engine)
        for wheel in (-0.82, 0.86):
            centre = at([(wheel, 0.2)])[0]
            sprite.ellipse(centre, (0.235 * h, 0.235 * h), self.engine - 5)
            sprite.ellipse(centre, (0.12 * h, 0.12 * h), self.engine + 1)


class CarFromAbove(Actor):
    """A car from the air: a rounded box with cold windscreens and a warm bonnet, at an angle."""

    reach = (0.6, 0.6)

    def __init__(self, rng: np.random.Generator, track: Track) -> None:
        super().__init__(rng, track)
        self.angle = rng.uniform(-0.06, 0.06)
        self.body = rng.uniform(281, 300)
        self.bonnet = rng.uniform(300, 312) if track.speed else self.body + rng.uniform(-1, 4)

    def _draw(self, sprite: Sprite, x: float, y: float, frame: int) -> None:
        half, f = self.size / 2, self.facing
        c, s = np.cos(self.angle), np.sin(self.angle)

        def box(left: float, right: float, width: float) -> list[Point]:
            corners = [(left, -width), (right, -width * 0.92), (right, width * 0.92), (left, width)]
            return [(x + f * half * (px * c - py * s), y + half * (px * s + py * c)) for px, py in corners]

        sprite.polygon(box(-1.0, 1.0, 0.44), self.body)
        sprite.polygon(box(0.42, 0.96, 0.38), self.bonnet)
        sprite.polygon(box(0.16, 0.4, 0.36), self.body - 7)
        sprite.polygon(box(-0.78, -0.6, 0.34), self.body - 6)
        sprite.polygon(box(-0.58, 0.14, 0.35), self.body - 2)


class PersonFromAbove(Actor):
    """A person from the air: head, shoulders and a step."""

    reach = (0.8, 1.1)

    def _draw(self, sprite: Sprite, x: float, y: float, frame: int) -> None:
        h = self.size
        step = 0.12 * h * np.sin(self.phase + 0.35 * frame)
        sprite.ellipse((x + step, y - 0.1 * h), (0.12 * h, 0.2 * h), 294)
        sprite.ellipse((x - step, y - 0.1 * h), (0.12 * h, 0.2 * h), 293)
        sprite.ellipse((x, y - 0.5 * h), (0.24 * h, 0.36 * h), 298)
        sprite.ellipse((x, y - 0.86 * h), (0.14 * h, 0.16 * h), 304)


class Ship(Actor):
    """A ship: hull, superstructure with warm windows, hot funnel with a plume, a wake of turned-up water."""

    reach = (2.1, 1.5)

    def __init__(self, rng: np.random.Generator, track: Track) -> None:
        super().__init__(rng, track)
        self.hull = rng.uniform(287, 294)
        self.stack = rng.uniform(312, 345)
        self.cargo = rng.uniform(0.3, 0.75, 6) if rng.uniform() < 0.5 else np.zeros(0)

    def _draw(self, sprite: Sprite, x: float, y: float, frame: int) -> None:
        h, f = self.size, self.facing

        def at(points: Sequence[Point]) -> list[Point]:
            return [(x + f * px * h, y - py * h) for px, py in points]

        roll = 0.012 * np.sin(0.12 * frame + self.phase)
        for drift in range(4):
            plume = at([(-1.25 - 0.16 * drift, 1.05 + 0.07 * drift)])[0]
            sprite.ellipse(plume, (0.1 * h + 0.03 * h * drift, 0.05 * h), 283 + 9.0 / (1 + drift))
        for box, tall in enumerate(self.cargo):
            left = -0.75 + 0.36 * box
            sprite.polygon(
                at([(left, 0.3), (left + 0.33, 0.3), (left + 0.33, tall), (left, tall)]), self.hull - 2 + box % 3
            )
        sprite.polygon(at([(-1.85, 0.33 + roll), (1.9, 0.42 - roll), (1.6, -0.02), (-1.75, -0.02)]), self.hull)
        sprite.polygon(at([(-1.8, 0.08), (1.66, 0.08), (1.6, -0.02), (-1.75, -0.02)]), self.hull - 3)
        sprite.polygon(at([(-1.6, 0.33), (-0.85, 0.33), (-0.9, 0.85), (-1.55, 0.85)]), self.hull + 2)
        for deck in (0.5, 0.68):
            sprite.limb(at([(-1.5, deck), (-0.95, deck)]), 0.035 * h, self.hull - 3)
        sprite.polygon(at([(-1.38, 0.85), (-1.12, 0.85), (-1.15, 1.05), (-1.36, 1.05)]), self.stack)
        sprite.limb(at([(1.2, 0.38), (1.2, 0.95)]), 0.025 * h, self.hull - 1)
        sprite.limb(at([(-1.9, 0.0), (-2.05, -0.03)]), 0.05 * h, 288.5)


class Animal(Actor):
    """A four-legged animal: warm trunk, head and belly, cooler legs and back."""

    reach = (0.95, 1.12)

    def __init__(self, rng: np.random.Generator, track: Track) -> None:
        super().__init__(rng, track)
        self.fur = rng.uniform(294, 300)
        self.neck = rng.uniform(0.15, 0.45)

    def _draw(self, sprite: Sprite, x: float, y: float, frame: int) -> None:
        h, f = self.size, self.facing
        beat = self.phase + 0.16 * abs(self.speed) * frame
        for place, offset, colder in ((-0.42, 0.0, 2.5), (0.4, np.pi, 2.5), (-0.34, np.pi, 1.0), (0.47, 0.0, 1.0)):
            swing = 0.12 * h * np.sin(beat + offset)
            top, knee = (x + f * place * h, y - 0.5 * h), (x + f * place * h + 0.6 * swing, y - 0.26 * h)
            sprite.limb([top, knee, (knee[0] + 0.5 * swing, y)], 0.085 * h, self.fur - colder)
        sprite.ellipse((x, y - 0.6 * h), (0.56 * h, 0.21 * h), self.fur - 1.2)
        sprite.ellipse((x, y - 0.53 * h), (0.46 * h, 0.12 * h), self.fur + 1.6)
        shoulder, head = (x + f * 0.47 * h, y - 0.64 * h), (x + f * 0.72 * h, y - (0.62 + self.neck) * h)
        sprite.limb([shoulder, head], 0.17 * h, self.fur)
        sprite.ellipse(head, (0.15 * h, 0.09 * h), self.fur + 2.5, angle=20 * f)
        sprite.ellipse((head[0] + f * 0.1 * h, head[1] + 0.03 * h), (0.045 * h, 0.04 * h), self.fur + 5)
        sprite.limb([(x - f * 0.54 * h, y - 0.62 * h), (x - f * 0.68 * h, y - 0.4 * h)], 0.035 * h, self.fur - 4)
