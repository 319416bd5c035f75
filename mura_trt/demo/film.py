"""Where a point of the body falls on the film, how the film answers, and how its light is shaped.

Points are complex numbers in mm, x to the right and y down; image arrays are float32, rows first.
"""

from __future__ import annotations

import cmath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mura_trt.demo.anatomy import Bone, Field

Floats = NDArray[np.float32]
Points = NDArray[np.complexfloating]
Pixels = NDArray[np.intp]  # positions in the flattened image
NETWORK_SIDE = 320  # pixels; an image is resized to this square before it is scored


class Strip(NamedTuple):
    """The pixels near a line from a to b: mm from a towards b, and mm to the side of that line."""

    pixels: Pixels
    u: Floats
    s: Floats


class Camera(NamedTuple):
    """Takes the point p in mm to the pixel turn * p + origin of an image of `size` (rows, columns)."""

    size: tuple[int, int]
    turn: complex
    origin: complex

    @property
    def scale(self) -> float:
        """Pixels per mm."""
        return abs(self.turn)

    @property
    def network_pixel(self) -> float:
        """The mm that one pixel of the network's input covers along the image's longer side."""
        return max(self.size) / NETWORK_SIDE / self.scale

    def strip(self, a: complex, b: complex, aside: float, beyond: float) -> Strip:
        """The pixels up to `aside` mm to the side of the line, in a window reaching `beyond` mm past its ends."""
        reach = max(aside, beyond) * self.scale
        start, stop = self.turn * a + self.origin, self.turn * b + self.origin
        ys = _clipped(start.imag, stop.imag, reach, self.size[0])
        xs = _clipped(start.real, stop.real, reach, self.size[1])
        per_pixel = 1 / (self.turn * cmath.rect(1, cmath.phase(b - a)))
        down, right = ys.astype(np.float32) - start.imag, xs.astype(np.float32) - start.real
        s = (down * per_pixel.real)[:, None] + right * per_pixel.imag
        near = np.flatnonzero(np.abs(s) < aside)
        row, column = np.divmod(near, max(len(xs), 1))
        u = right[column] * per_pixel.real - down[row] * per_pixel.imag
        first = ys[0] * self.size[1] + xs[0] if len(ys) and len(xs) else 0
        return Strip(first + row * self.size[1] + column, u.astype(np.float32), s.ravel()[near].astype(np.float32))

    def around(self, bone: Bone, margin: float) -> Strip:
        """The pixels within margin mm of the bone."""
        widest = max(bone.shaft, bone.end_a, bone.end_b) + abs(bone.bow) + abs(bone.lean) + margin
        return self.strip(bone.a, bone.b, widest, margin)

    def distance(self, a: complex, b: complex) -> Floats:
        """Of every pixel: mm from the segment between a and b."""
        per_pixel = 1 / (self.turn * cmath.rect(1, cmath.phase(b - a)))
        start = self.turn * a + self.origin
        ys = np.arange(self.size[0], dtype=np.float32)[:, None] - start.imag
        xs = np.arange(self.size[1], dtype=np.float32) - start.real
        u, s = xs * per_pixel.real - ys * per_pixel.imag, xs * per_pixel.imag + ys * per_pixel.real
        return np.asarray(np.hypot(u - np.clip(u, 0, abs(b - a)), s), np.float32)

    def off_centre(self, points: Points) -> NDArray[np.floating]:
        """How far points lie from the image's middle, 0.5 at its border."""
        at = self.turn * points + self.origin
        return np.maximum(abs(at.imag / self.size[0] - 0.5), abs(at.real / self.size[1] - 0.5))


def _clipped(p: float, q: float, reach: float, side: int) -> NDArray[np.intp]:
    low, high = int(min(p, q) - reach), int(max(p, q) + reach) + 1
    return np.arange(min(max(low, 0), side), min(max(high, 0), side))


def aim(rng: np.random.Generator, field: Field, size: tuple[int, int]) -> Camera:
    """Fits the field into the image about its middle; a limb lies along the longer side."""
    height, width = size
    turned = (width > height) != (field.width > field.height)
    tall, wide = (field.width, field.height) if turned else (field.height, field.width)
    scale = min(height / tall, width / wide) * rng.uniform(0.85, 1.25)
    angle = rng.normal(0, 0.175) + turned * rng.choice([-0.5, 0.5]) * np.pi
    x, y = rng.uniform(0.45, 0.55, 2)
    turn = cmath.rect(scale, angle)
    return Camera(size, turn, complex(x * width, y * height) - turn * field.centre)


def enlarge(coarse: Floats, size: tuple[int, int], factor: float) -> Floats:
    """Bilinear: pixel i of the result lies at i / factor of the coarse array, which must reach one beyond."""
    for axis, side in enumerate(size):
        at = np.arange(side) / factor
        first = at.astype(int)
        part = (at - first).astype(np.float32).reshape((-1, 1) if axis == 0 else (1, -1))
        low = coarse.take(first, axis)
        coarse = low + part * (coarse.take(first + 1, axis) - low)
    return coarse


def noise(rng: np.random.Generator, size: tuple[int, int], factor: float) -> Floats:
    """Smooth noise whose blobs are `factor` pixels wide."""
    return enlarge(rng.standard_normal([int(side / factor) + 2 for side in size], np.float32), size, factor)


def blur(image: Floats, weight: float) -> Floats:
    """A pixel keeps 1 - 2 * weight of itself and takes `weight` from either neighbour, along both axes."""
    share = np.float32(weight)
    for axis in range(2):
        step = share * np.diff(image, axis=axis)
        image = image.copy()
        along = image if axis == 0 else image.T
        along[:-1] += step if axis == 0 else step.T
        along[1:] -= step if axis == 0 else step.T
    return image


def cover(inside: Floats, width: float, scale: float) -> Floats:
    """The share of each pixel that a strip covers, from the mm that the pixel lies inside its edge."""
    return np.asarray(np.clip(inside * scale + 0.5, 0, min(1, width * scale)), np.float32)


class Film(NamedTuple):
    """An S-shaped response: half of `peak` at an attenuation of `middle`, steeper for a larger `gamma`."""

    peak: float
    middle: float
    gamma: float
    base: float
    grain: float
    blurs: tuple[float, ...]

    @property
    def visible(self) -> float:
        """A change of the attenuation that moves no pixel by more than 3 gray levels."""
        g = self.gamma
        steepest = (g - 1) ** (1 - 1 / g) * (g + 1) ** (1 + 1 / g) / (4 * g)
        return float(3 * self.middle / (steepest * self.peak))

    def gray(self, rng: np.random.Generator, total: Floats, opened: Floats | None) -> Floats:
        """Gray levels, not yet rounded, of the summed attenuation behind the collimator."""
        # peak * r / (1 + r) of r = (total / middle) ** gamma; exp and log are faster than a power.
        falling = np.exp(np.float32(-self.gamma) * np.log(total * np.float32(1 / self.middle)))
        light: Floats = np.float32(self.peak) / (1 + falling)
        if opened is not None:
            light *= opened
        light += np.float32(self.grain) * rng.standard_normal(total.shape, np.float32)
        light += np.float32(self.base)
        for weight in self.blurs:
            light = blur(light, weight)
        return light


def expose(rng: np.random.Generator, typical: float) -> Film:
    """A film exposed for a limb whose flesh and a little bone attenuate by `typical`."""
    blurs = tuple(rng.uniform(0.1, 0.25, 1 + int(rng.random() < 0.35)).tolist())
    return Film(
        peak=float(rng.uniform(195, 243)),
        middle=typical * float(rng.lognormal(0, 0.17)),
        gamma=float(rng.uniform(1.8, 3.4)),
        base=float(rng.uniform(2, 22)),
        grain=float(rng.uniform(2, 12)),
        blurs=blurs,
    )


def collimate(rng: np.random.Generator, size: tuple[int, int]) -> Floats:
    """The share of light the shutter lets through: all within a turned frame, little outside."""
    strong = rng.random() < 0.4
    low, high = (0.05, 0.12) if strong else (-0.03, 0.06)
    # Sides that the shutter leaves alone are common.
    margins = rng.uniform(low, high, 4) * np.where(rng.random(4) < 0.75, 1, 0)
    tilt, leak = rng.normal(0, 0.05 if rng.random() < 0.3 else 0.012), rng.uniform(0, 0.25)
    tilt = min(max(tilt, -0.08), 0.08)
    y = np.arange(size[0], dtype=np.float32)[:, None] - size[0] / 2
    x = np.arange(size[1], dtype=np.float32) - size[1] / 2
    top, bottom, before, behind = (margins * np.repeat(size, 2)).tolist()
    across, down = x + tilt * y, y - tilt * x
    rows = np.minimum(down + size[0] / 2 - top, size[0] / 2 - bottom - down)
    inside = np.minimum(rows, np.minimum(across + size[1] / 2 - before, size[1] / 2 - behind - across))
    return np.asarray(np.clip(inside / 2 + 0.5, leak, 1), np.float32)
