"""Draws one synthetic X-ray view of an upper-limb part, with or without a lesion.

Bones are tubes laid out in millimetres; a point is a complex number, x to the right and y down. What the
detector sees is the sum of attenuation times thickness along the ray, put through a film-like tone curve. A
lesion only changes this sum near one bone. Image arrays are float32, rows first.
"""

from __future__ import annotations

import cmath
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mura_trt.demo.anatomy import BODY_PARTS, FIELDS, Bone, Field, anatomy

Floats = NDArray[np.float32]
Window = tuple[slice, slice]
Stroke = tuple[complex, complex, float, float]  # straight metal: from, to, half its width, its depth; in mm

LESION_KINDS: tuple[str, ...] = ("fracture", "displaced", "hardware")

# Attenuation per mm; bone's figures are what it adds to the flesh it takes the place of.
FLESH, CORTEX, MARROW, METAL = 0.020, 0.055, 0.014, 0.9
VISIBLE = 0.02  # a smaller change of the summed attenuation moves a pixel by 4 gray levels at most
TABLE_STEP = 0.1  # mm between the entries of a bone's profile


class Box(NamedTuple):
    """A rectangle in pixels of the saved image; x1 and y1 are exclusive."""

    x0: int
    y0: int
    x1: int
    y1: int


class _Camera(NamedTuple):
    """Takes the point p in mm to the pixel turn * p + origin of an image of `size` (rows, columns)."""

    size: tuple[int, int]
    turn: complex
    origin: complex

    def around(self, bone: Bone, margin: float) -> Window:
        """The part of the image within margin mm of the bone."""
        grow = max(bone.shaft, bone.end_a, bone.end_b) + abs(bone.bow) + abs(bone.lean) + margin
        a, b = self.turn * bone.a + self.origin, self.turn * bone.b + self.origin

        def clipped(p: float, q: float, side: int) -> slice:
            low, high = min(p, q) - grow * abs(self.turn), max(p, q) + grow * abs(self.turn)
            return slice(min(max(int(low), 0), side), min(max(int(high) + 1, 0), side))

        return clipped(a.imag, b.imag, self.size[0]), clipped(a.real, b.real, self.size[1])

    def along(self, a: complex, b: complex, window: Window) -> tuple[Floats, Floats]:
        """Of each pixel in the window: mm from a towards b, and mm to the side of that line."""
        per_pixel = 1 / (self.turn * cmath.rect(1, cmath.phase(b - a)))
        start = self.turn * a + self.origin
        ys = np.arange(window[0].start, window[0].stop, dtype=np.float32)[:, None] - start.imag
        xs = np.arange(window[1].start, window[1].stop, dtype=np.float32) - start.real
        return xs * per_pixel.real - ys * per_pixel.imag, xs * per_pixel.imag + ys * per_pixel.real

    def distance(self, a: complex, b: complex, window: Window) -> Floats:
        """Of each pixel in the window: mm from the segment between a and b."""
        u, s = self.along(a, b, window)
        return np.asarray(np.hypot(u - np.clip(u, 0, abs(b - a)), s))


def _camera(rng: np.random.Generator, field: Field, size: tuple[int, int]) -> _Camera:
    """Fits the field into the image about its middle; a limb lies along the longer side."""
    height, width = size
    turned = (width > height) != (field.width > field.height)
    tall, wide = (field.width, field.height) if turned else (field.height, field.width)
    scale = min(height / tall, width / wide) * rng.uniform(0.95, 1.1)
    angle = rng.normal(0, 0.09) + turned * rng.choice([-0.5, 0.5]) * np.pi
    x, y = rng.uniform(0.47, 0.53, 2)
    turn = cmath.rect(scale, angle)
    return _Camera(size, turn, complex(x * width, y * height) - turn * field.centre)


def _attenuation(bone: Bone, u: Floats, s: Floats, texture: Floats) -> Floats:
    """What a bone adds to the sum at u mm along and s mm to the side of it; texture shades its marrow."""
    length = abs(bone.b - bone.a)
    at = np.arange(0, length + TABLE_STEP, TABLE_STEP)
    flare_a = np.exp(-((at / (2.2 * bone.end_a)) ** 2))
    flare_b = np.exp(-(((length - at) / (2.2 * bone.end_b)) ** 2))
    radius = bone.shaft + (bone.end_a - bone.shaft) * flare_a + (bone.end_b - bone.shaft) * flare_b
    # A shaft has a thick cortex, a joint end a thin one.
    cortex = 0.8 + (0.32 * bone.shaft - 0.8) * (1 - np.maximum(flare_a, flare_b))
    rounding = np.minimum(np.where(at < length / 2, bone.end_a, bone.end_b) * bone.dome, length / 2)

    def squared(radius: NDArray[np.float64], inset: float) -> Floats:
        """The squared radius along the bone, rounded off `inset` mm before either end."""
        over = np.clip(1 - (np.minimum(at, length - at) - inset) / rounding, 0, 1)
        table = np.maximum(radius, 0) ** 2 * (1 - over**2.5) ** 0.8
        table[[0, -1]] = 0  # no bone beyond its ends
        return np.asarray(table, np.float32)

    middle = (bone.bow * np.sin(np.pi * at / length) + bone.lean * flare_b).astype(np.float32)
    # A flared end is wider than it is deep.
    depth = (2 * bone.depth * np.sqrt(bone.shaft / radius)).astype(np.float32)
    index = np.clip(u * (1 / TABLE_STEP), 0, len(at) - 1).astype(np.intp)
    across = s - middle[index]
    near = np.flatnonzero(np.abs(across) < radius.max())  # most of the window lies beside the bone
    index, across = index.ravel()[near], np.square(across.ravel()[near])
    outer = np.sqrt(np.maximum(squared(radius, 0)[index] - across, 0))
    inner = np.sqrt(np.maximum(squared(radius - cortex, 0.8)[index] - across, 0))
    marrow = MARROW * (1 + texture.ravel()[near])
    result = np.zeros(s.size, np.float32)
    result[near] = depth[index] * (CORTEX * (outer - inner) + marrow * inner)
    return result.reshape(s.shape)


def _enlarge(coarse: Floats, size: tuple[int, int], factor: float) -> Floats:
    """Bilinear: pixel i of the result lies at i / factor of the coarse array, which must reach one beyond."""
    for axis, side in enumerate(size):
        at = np.arange(side) / factor
        first = at.astype(int)
        part = (at - first).astype(np.float32).reshape((-1, 1) if axis == 0 else (1, -1))
        low = coarse.take(first, axis)
        coarse = low + part * (coarse.take(first + 1, axis) - low)
    return coarse


def _flesh(rng: np.random.Generator, camera: _Camera, bones: list[Bone], flesh: float) -> Floats:
    """Half the thickness of the flesh in mm: a round wrap of each bone, the wraps merged without creases."""
    rows, columns = camera.size[0] // 4 + 2, camera.size[1] // 4 + 2
    coarse = _Camera((rows, columns), camera.turn / 4, camera.origin / 4)
    total = np.full((rows, columns), 1e-20, np.float32)
    for bone in bones:
        from_bone = coarse.distance(bone.a, bone.b, (slice(0, rows), slice(0, columns)))
        squared = (min(bone.shaft, 12) + flesh) ** 2 - np.square(from_bone)
        total += np.exp(np.maximum(squared / (flesh**2 / 2), -60))
    # Squares are smooth across the skin, so they are what is enlarged.
    uneven = flesh**2 / 2 * (1 + 0.06 * _noise(rng, coarse.size, 9 * abs(coarse.turn)))
    return np.asarray(np.sqrt(np.maximum(_enlarge(uneven * np.log(total), camera.size, 4), 0)))


def _noise(rng: np.random.Generator, size: tuple[int, int], factor: float) -> Floats:
    """Smooth noise whose blobs are `factor` pixels wide."""
    return _enlarge(rng.standard_normal([int(side / factor) + 2 for side in size], np.float32), size, factor)


def _blur(image: Floats, weight: float) -> Floats:
    """A pixel keeps 1 - 2 * weight of itself and takes `weight` from either neighbour, along both axes."""
    for _ in range(2):
        padded = np.pad(image, ((1, 1), (0, 0)), "edge")
        image = ((1 - 2 * weight) * image + weight * (padded[:-2] + padded[2:])).T
    return image


def _cover(inside: Floats, width: float, scale: float) -> Floats:
    """The share of each pixel that a strip covers, from the mm that the pixel lies inside its edge."""
    return np.asarray(np.clip(inside * scale + 0.5, 0, min(1, width * scale)))


def _metal(camera: _Camera, window: Window, strokes: list[Stroke]) -> Floats:
    """The attenuation of the strokes within the window, their edges one pixel soft."""
    total = np.zeros((window[0].stop - window[0].start, window[1].stop - window[1].start), np.float32)
    for a, b, half_width, depth in strokes:
        cover = _cover(half_width - camera.distance(a, b, window), 2 * half_width, abs(camera.turn))
        total = np.maximum(total, METAL * depth * cover)
    return total


def _marker(rng: np.random.Generator, size: tuple[int, int], left: bool) -> tuple[Window, Floats]:
    """A lead L or R in a corner of the image: where it lies and its attenuation."""
    tall = 0.05 * max(size) * rng.uniform(0.8, 1.2)
    free = np.array(size) - (tall, 0.55 * tall)
    y, x = (free * np.abs(rng.integers(0, 2, 2) - rng.uniform(0.06, 0.1, 2))).tolist()
    y0, x0 = int(y - 0.08 * tall), int(x - 0.08 * tall)
    window = slice(y0, y0 + int(1.2 * tall)), slice(x0, x0 + int(0.72 * tall))
    line = [0j, 1j, 0.5 + 1j] if left else [1j, 0j, 0.35 + 0j, 0.5 + 0.25j, 0.35 + 0.5j, 0.5j, 0.5 + 1j]
    letter = [(a, b, 0.07, 3.5) for a, b in pairwise(line)]
    return window, _metal(_Camera(size, complex(tall), complex(x, y)), window, letter)


def _site(rng: np.random.Generator, camera: _Camera, bones: list[Bone], kind: str) -> tuple[Bone, float]:
    """A tubular bone and a place on it, in mm from its end a, well inside the image.

    Views whose lesion_rng starts alike agree about the bone where they show the same bones.
    """
    order, quantile = rng.permutation(len(bones)), rng.random()
    for bone in (bones[i] for i in order):
        length = abs(bone.b - bone.a)
        from_b = np.linspace(0.2 * min(length, 60), 0.8 * length, 40)
        if kind == "displaced":  # its fragment reaches to end b
            from_b = from_b[from_b < 60]
        pixels = camera.turn * (bone.b + (bone.a - bone.b) * from_b / length) + camera.origin
        off = np.maximum(abs(pixels.imag / camera.size[0] - 0.5), abs(pixels.real / camera.size[1] - 0.5))
        seen = from_b[off < 0.38]
        if len(seen) > 2 and length > 3 * bone.shaft and bone.depth == 1:
            return bone, length - float(seen[int(quantile * len(seen))])
    raise ValueError(f"no bone lies well inside a view of {camera.size} pixels")


def _break(
    rng: np.random.Generator, kind: str, bone: Bone, at: float, u: Floats, s: Floats, scale: float
) -> tuple[Floats, Floats]:
    """How far the bone at each point has moved sideways in mm, and the share that the crack takes there."""
    slope, side, jags = rng.uniform(-0.7, 0.7), rng.choice([-1, 1]), rng.normal(0, 0.1, 25)
    knots = np.linspace(-3, 3, 25)
    if kind == "displaced":
        gap, shift, reach = rng.uniform(1, 2), rng.uniform(0.5, 1.1), abs(bone.b - bone.a) - at
    else:
        gap, shift, reach = rng.uniform(0.4, 0.9), rng.uniform(0.08, 0.2), bone.shaft
    beyond = u - at - bone.shaft * np.interp(s / bone.shaft, knots, slope * knots + jags).astype(np.float32)
    # The fragment hinges on its far end, where the joint holds it.
    moved = np.where(beyond > 0, float(side * shift * bone.shaft) * np.clip(1 - beyond / reach, 0, 1), 0)
    return moved, _cover(gap / 2 - np.abs(beyond), gap, scale)


def _implant(rng: np.random.Generator, bone: Bone, at: float) -> list[Stroke]:
    """One or two wires, or a plate with screws seen from the front or from the side."""
    along, width = cmath.rect(1, cmath.phase(bone.b - bone.a)), bone.shaft
    middle = bone.a + at * along
    if rng.random() < 0.35:
        half = along * min(3.5 * width + 4, 0.5 * abs(bone.b - bone.a))
        tilts = rng.uniform(0.2, 0.6, rng.integers(1, 3)) * rng.choice([-1, 1])
        wires = [half * cmath.rect(1, tilt) for tilt in tilts]
        return [(middle - wire, middle + wire, 0.5 + 0.03 * width, 1.6) for wire in wires]
    half = along * min(rng.uniform(2.5, 4.5) * width + 6, 0.42 * abs(bone.b - bone.a))
    side = int(rng.integers(-1, 2))
    middle += 1.05j * side * width * along
    plate = (0.18 * width, 5.0) if side else (0.5 * width, 1.3)
    heads = [middle + half * share for share in np.linspace(-0.88, 0.88, int(rng.integers(4, 8)))]
    screws = [(head, head - 1.9j * side * width * along, 0.45 + 0.07 * width, 2.4) for head in heads]
    return [(middle - half, middle + half, *plate), *screws]


def _lesion(
    rng: np.random.Generator, camera: _Camera, bones: list[Bone], kind: str, texture: Floats
) -> tuple[Window, Floats]:
    """Where and by how much a lesion changes the sum."""
    bone, at = _site(rng, camera, bones, kind)
    window = camera.around(bone, margin=12)
    if kind == "hardware":
        return window, _metal(camera, window, _implant(rng, bone, at))
    u, s = camera.along(bone.a, bone.b, window)
    moved, crack = _break(rng, kind, bone, at, u, s, abs(camera.turn))
    broken = (1 - crack) * _attenuation(bone, u, s - moved, texture[window])
    return window, broken - _attenuation(bone, u, s, texture[window])


def _bounds(window: Window, change: Floats, size: tuple[int, int]) -> Box:
    """The rectangle of the visible change and one pixel around it for the blur, within the image."""
    seen = np.abs(change) > VISIBLE
    ys, xs = np.flatnonzero(seen.any(1)) + window[0].start, np.flatnonzero(seen.any(0)) + window[1].start
    low, high = (max(int(xs[0]) - 1, 0), max(int(ys[0]) - 1, 0)), (int(xs[-1]) + 2, int(ys[-1]) + 2)
    return Box(*low, min(high[0], size[1]), min(high[1], size[0]))


def _shutter(rng: np.random.Generator, size: tuple[int, int]) -> Floats:
    """The share of light the collimator lets through: all within a slightly turned frame, little outside."""
    y = np.arange(size[0], dtype=np.float32)[:, None]
    x = np.arange(size[1], dtype=np.float32)
    tilt, leak = rng.normal(0, 0.015), rng.uniform(0, 0.3)
    top, bottom, before, behind = (rng.uniform(-0.03, 0.05, 4) * np.repeat(size, 2)).tolist()
    across, down = x + tilt * y, y - tilt * x
    rows = np.minimum(down - top, size[0] - 1 - bottom - down)
    inside = np.minimum(rows, np.minimum(across - before, size[1] - 1 - behind - across))
    return np.asarray(np.clip(inside / 2 + 0.5, leak, 1))


def draw_view(
    rng: np.random.Generator,
    lesion_rng: np.random.Generator,
    body_part: str,
    lesion: str | None,
    size: tuple[int, int],
) -> tuple[NDArray[np.uint8], Box | None]:
    """Draw one view.

    The lesion takes nothing from rng: calls that differ only in lesion and lesion_rng give images that differ
    by 4 gray levels at most outside the box.

    Parameters
    ----------
    rng, lesion_rng : independent generators; lesion_rng decides where the lesion lies and how it looks.
    body_part : one of BODY_PARTS.
    lesion : one of LESION_KINDS, or None.
    size : height and width in pixels, 64 or more each.

    Returns
    -------
    The (height, width) uint8 image, bone bright, and the lesion's box in pixels, or None without a lesion.

    Raises
    ------
    ValueError : for an unknown body part or lesion.
    """
    if body_part not in BODY_PARTS:
        raise ValueError(f"unknown body part {body_part!r}: choose one of {', '.join(BODY_PARTS)}")
    if lesion is not None and lesion not in LESION_KINDS:
        raise ValueError(f"unknown lesion {lesion!r}: choose one of {', '.join(LESION_KINDS)}")
    field = FIELDS[body_part]
    left = bool(rng.random() < 0.5)
    camera = _camera(rng, field, size)
    bones = anatomy(rng, body_part, left, field.centre)
    texture = 0.4 * _noise(rng, size, max(1.5, 0.7 * abs(camera.turn)))

    total = 2 * FLESH * _flesh(rng, camera, bones, field.flesh)
    for bone in bones:
        window = camera.around(bone, margin=1)
        total[window] += _attenuation(bone, *camera.along(bone.a, bone.b, window), texture[window])
    window, letter = _marker(rng, size, left)
    total[window] += letter
    box = None
    if lesion is not None:
        window, change = _lesion(lesion_rng, camera, bones, lesion, texture)
        total[window] += change
        box = _bounds(window, change, size)

    # Scatter that leans to one side, the film's S-shaped response, its grain and the detector's blur.
    lean_y, lean_x = rng.uniform(-0.05, 0.05, 2).astype(np.float32)
    total += lean_y * np.linspace(-1, 1, size[0], dtype=np.float32)[:, None] + 0.15
    total += lean_x * np.linspace(-1, 1, size[1], dtype=np.float32)
    typical = (2 * FLESH * (field.flesh + 7) + 0.4) * rng.lognormal(0, 0.1)
    response = (total / float(typical)) ** rng.uniform(2.4, 3.2)
    light = rng.uniform(225, 241) * response / (1 + response)
    if rng.random() < 0.3:
        light *= _shutter(rng, size)
    light += rng.uniform(3, 10) * rng.standard_normal(size, np.float32) + rng.uniform(4, 14)
    gray = np.rint(_blur(light, rng.uniform(0.12, 0.25)))
    return np.ascontiguousarray(np.clip(gray, 0, 255), np.uint8), box
