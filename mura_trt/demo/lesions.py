"""What makes a study abnormal: a fracture, a displaced fracture or an implant in one of the bones shown.

A lesion is given as the change it makes to the summed attenuation, so that all else in a view stays as it is.
"""

from __future__ import annotations

import cmath
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mura_trt.demo.anatomy import Bone
from mura_trt.demo.film import Camera, Floats, Pixels, Points, cover

LESION_KINDS: tuple[str, ...] = ("fracture", "displaced", "hardware")
METAL = 0.9  # attenuation per mm


class Stroke(NamedTuple):
    """Straight metal with round ends; in mm."""

    a: complex
    b: complex
    half_width: float
    depth: float


class Site(NamedTuple):
    """A tubular bone and a place on it: mm from its end a, and which of its mm the view shows."""

    bone: Bone
    at: float
    seen: tuple[float, float]


class Change(NamedTuple):
    """By how much the summed attenuation changes at these positions of the flattened image."""

    pixels: Pixels
    by: Floats


Shade = Callable[[Bone, Floats, Floats, Floats], Floats]


def metal(camera: Camera, strokes: list[Stroke]) -> Change:
    """The attenuation of the strokes, their edges one pixel soft."""
    total = np.zeros(camera.size[0] * camera.size[1], np.float32)
    for a, b, half_width, depth in strokes:
        near = camera.strip(a, b, half_width + 1 / camera.scale, half_width + 1 / camera.scale)
        past = near.u - np.clip(near.u, 0, abs(b - a))
        off = np.hypot(past, near.s).astype(np.float32)
        value = METAL * depth * cover(half_width - off, 2 * half_width, camera.scale)
        total[near.pixels] = np.maximum(total[near.pixels], value)
    pixels = np.flatnonzero(total)
    return Change(pixels, total[pixels])


def _open(camera: Camera, points: Points, opened: Floats | None) -> NDArray[np.bool_]:
    """Which points lie well inside the image and in what the collimator leaves open."""
    inside = camera.off_centre(points) < 0.37
    if opened is not None:
        # Three points about each, so that more than the bare site is in the open.
        for shift in (0, 6, -6, 6j, -6j):
            at = camera.turn * (points + shift / camera.scale) + camera.origin
            row = np.clip(at.imag, 0, camera.size[0] - 1).astype(int)
            column = np.clip(at.real, 0, camera.size[1] - 1).astype(int)
            inside &= opened[row, column] == 1
    return inside


def find_site(rng: np.random.Generator, camera: Camera, bones: list[Bone], kind: str, opened: Floats | None) -> Site:
    """A tubular bone and a place on it, well inside the image; large bones are likelier.

    Views whose lesion_rng starts alike mostly agree about the bone where they show the same bones.
    """
    waits, quantile = rng.exponential(size=len(bones)), float(rng.random())
    best: tuple[float, Site] | None = None
    nearest: tuple[float, Site] | None = None
    for bone, wait in zip(bones, waits.tolist(), strict=True):
        length = abs(bone.b - bone.a)
        if length <= 3 * bone.shaft or bone.depth < 1:
            continue
        from_b = np.linspace(0.2 * min(length, 60), 0.8 * length, 40)
        if kind == "displaced":  # its fragment reaches to end b
            from_b = from_b[from_b < 60]
        points = bone.b + (bone.a - bone.b) * from_b / length
        shown = from_b[_open(camera, points, opened)]
        if len(shown) > 2:
            # Those who wait an exponential time over their weight come first in proportion to their weight.
            turn = wait / (bone.shaft**2 * (np.ptp(shown) + 1))
            at = length - float(shown[int(quantile * len(shown))])
            if best is None or turn < best[0]:
                best = turn, Site(bone, at, (length - float(shown.max()), length - float(shown.min())))
        off = camera.off_centre(points)
        at = length - float(from_b[off.argmin()])
        if nearest is None or off.min() < nearest[0]:
            nearest = float(off.min()), Site(bone, at, (at - 5, at + 5))
    if best is not None:
        return best[1]
    if nearest is None:
        raise ValueError("no tubular bone in the view")
    return nearest[1]


def _line(rng: np.random.Generator, bone: Bone, tilt: float) -> Callable[[Floats], Floats]:
    """A jagged line across the bone: mm along it at s mm to the side."""
    knots = np.linspace(-3, 3, 25)
    offsets = bone.shaft * (tilt * knots + rng.normal(0, 0.13, 25))
    return lambda s: np.interp(s, bone.shaft * knots, offsets).astype(np.float32)


def broken(rng: np.random.Generator, camera: Camera, site: Site, kind: str, texture: Floats, shade: Shade) -> Change:
    """A crack across the bone and the fragment beyond it, moved to the side; now and then a wedge between two."""
    bone, at, _ = site
    wide, side, tilt = rng.random(), float(rng.choice([-1, 1])), rng.uniform(-0.8, 0.8)
    wedge, apart, step = rng.random() < 0.3, rng.uniform(0.7, 1.4) * bone.shaft, rng.random()
    first, second = _line(rng, bone, tilt), _line(rng, bone, tilt - np.copysign(rng.uniform(0.3, 0.8), tilt))
    if kind == "displaced":
        gap = max(1.5 + 2.5 * wide, 2 * camera.network_pixel)
        gap, shift, reach = min(gap, 0.8 * bone.shaft), 0.6 + 0.7 * step, abs(bone.b - bone.a) - at
    else:
        gap = max(1.2 + 1.4 * wide, 1.5 * camera.network_pixel)
        gap = min(gap, max(0.45 * bone.shaft, 1.5 * camera.network_pixel))
        shift, reach = 0.15 + 0.25 * step, min(3 * bone.shaft, abs(bone.b - bone.a) - at)
    pixels, u, s = camera.around(bone, 1.5 * bone.shaft)
    beyond = u - at - first(s)
    # The fragment hinges on its far end, where the joint holds it.
    moved = np.where(beyond > 0, np.float32(side * shift * bone.shaft) * np.clip(1 - beyond / reach, 0, 1), 0)
    crack = cover(gap / 2 - np.abs(beyond), gap, camera.scale)
    if wedge:
        past = u - at - apart - second(s)
        moved += np.where((beyond > 0) & (past < 0), np.float32(0.3 * side * shift * bone.shaft), 0)
        crack = np.maximum(crack, cover(gap / 2 - np.abs(past), gap, camera.scale) * (beyond > 0))
    shading = texture.reshape(-1)[pixels]
    after = (1 - crack) * shade(bone, u, s - moved.astype(np.float32), shading)
    return Change(pixels, after - shade(bone, u, s, shading))


def _wires(rng: np.random.Generator, site: Site, thin: float) -> list[Stroke]:
    """Kirschner wires, crossed or side by side."""
    bone = site.bone
    along = cmath.rect(1, cmath.phase(bone.b - bone.a))
    half = along * min(3.5 * bone.shaft + 5, 0.5 * abs(bone.b - bone.a))
    strokes, crossed = [], rng.random() < 0.5
    lean = rng.choice([-1, 1])
    for number in range(int(rng.integers(1, 4))):
        tilt = rng.uniform(0.12, 0.5) * lean * (-1 if crossed and number % 2 else 1)
        wire, middle = half * cmath.rect(1, tilt), bone.middle(site.at) + rng.uniform(-0.3, 0.3) * half
        strokes.append(Stroke(middle - wire, middle + wire, max(0.6 + 0.04 * bone.shaft, thin), 2.2))
    return strokes


def _plate(rng: np.random.Generator, site: Site, thin: float) -> list[Stroke]:
    """A plate with screws, seen from the front or from the side."""
    bone, width = site.bone, site.bone.shaft
    along = cmath.rect(1, cmath.phase(bone.b - bone.a))
    half = along * min(rng.uniform(2.5, 5) * width + 7, 0.42 * abs(bone.b - bone.a))
    side = int(rng.integers(-1, 2))
    middle = bone.middle(site.at) + 1.05j * side * width * along
    plate = (max(0.2 * width, thin), 5.0) if side else (0.5 * width, 1.5)
    heads = [middle + half * share for share in np.linspace(-0.88, 0.88, int(rng.integers(4, 9)))]
    long = rng.uniform(1.5, 2.1)
    screws = [
        Stroke(head, head - 1j * long * side * width * along, max(0.45 + 0.07 * width, thin), 3.0) for head in heads
    ]
    return [Stroke(middle - half, middle + half, *plate), *screws]


def _nail(rng: np.random.Generator, site: Site, thin: float) -> list[Stroke]:
    """A rod in the marrow with one or two locking screws."""
    bone, width = site.bone, site.bone.shaft
    length = abs(bone.b - bone.a)
    start = max(site.at - rng.uniform(5, 9) * width, 0.04 * length)
    stop = min(site.at + rng.uniform(5, 9) * width, 0.96 * length)
    at = np.linspace(start, stop, 6).tolist()
    half = max(rng.uniform(0.28, 0.42) * width, thin)
    rod = [Stroke(bone.middle(p), bone.middle(q), half, 4.0) for p, q in pairwise(at)]
    across = 1j * cmath.rect(1, cmath.phase(bone.b - bone.a)) * cmath.rect(1, rng.uniform(-0.3, 0.3))
    for share in rng.permutation([0.1, 0.9, 0.2])[: int(rng.integers(1, 3))].tolist():
        middle = bone.middle(start + share * (stop - start))
        reach = 1.4 * width * across
        rod.append(Stroke(middle - reach, middle + reach, max(0.4 + 0.09 * width, thin), 4.0))
    return rod


def _screws(rng: np.random.Generator, site: Site, thin: float) -> list[Stroke]:
    """One to three screws across the bone, each with its head."""
    bone, width = site.bone, site.bone.shaft
    across = 1j * cmath.rect(1, cmath.phase(bone.b - bone.a)) * rng.choice([-1, 1])
    screws, tilt = [], rng.uniform(-0.6, 0.6)
    for number in range(int(rng.integers(1, 4))):
        middle = bone.middle(float(np.clip(site.at + 1.3 * width * (number - 0.5), 0, abs(bone.b - bone.a))))
        reach = 1.35 * width * across * cmath.rect(1, tilt + rng.normal(0, 0.1))
        half, head = max(0.6 + 0.09 * width, thin), 0.12 * reach / abs(reach) * 1j * width
        screws.append(Stroke(middle - reach, middle + reach, half, 3.5))
        screws.append(Stroke(middle + reach - 1.6 * head, middle + reach + 1.6 * head, 1.5 * half, 4.0))
    return screws


def _prosthesis(rng: np.random.Generator, site: Site) -> list[Stroke]:
    """A round head in place of end b, with a stem that tapers down the shaft."""
    bone, width = site.bone, site.bone.shaft
    length = abs(bone.b - bone.a)
    head = bone.middle(length - 0.75 * bone.end_b)
    reach = min(rng.uniform(6, 10) * width, 0.7 * length)
    at = np.linspace(length - bone.end_b, length - reach, 13).tolist()
    halves = np.linspace(0.72, 0.4, 12) * width
    stem = [
        Stroke(bone.middle(p), bone.middle(q), half, 4.0)
        for p, q, half in zip(at[:-1], at[1:], halves.tolist(), strict=True)
    ]
    return [Stroke(head, head, rng.uniform(0.8, 0.95) * bone.end_b, 5.0), *stem]


def implant(rng: np.random.Generator, camera: Camera, site: Site, body_part: str) -> list[Stroke]:
    """Wires, a plate, a nail, screws or, in the humerus, a joint prosthesis."""
    share, bone = rng.random(), site.bone
    joint = bone.middle(abs(bone.b - bone.a) - bone.end_b)
    thin = 0.75 * camera.network_pixel  # a thinner half width would be lost when the view is resized
    fits = body_part in ("SHOULDER", "HUMERUS", "ELBOW") and bone.shaft > 8
    if fits and share < 0.35 and camera.off_centre(np.array([joint]))[0] < 0.42:
        return _prosthesis(rng, site)
    if share < 0.5:
        return _plate(rng, site, thin)
    if share < 0.7:
        return _wires(rng, site, thin)
    return _nail(rng, site, thin) if share < 0.87 else _screws(rng, site, thin)
