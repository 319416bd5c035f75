"""The bones that each body part's view shows, and how they vary from person to person.

Lengths are in millimetres; a point is a complex number, x to the right and y down.
"""

from __future__ import annotations

import cmath
from typing import NamedTuple

import numpy as np


class Bone(NamedTuple):
    """A tube from a to b, its radii in mm; b is the end at the joint that the view shows."""

    a: complex
    b: complex
    shaft: float
    end_a: float
    end_b: float
    bow: float = 0.0  # mm that the middle bends sideways
    lean: float = 0.0  # mm that end b hangs over sideways
    depth: float = 1.0  # thickness relative to a round tube's; below 1 for flat bones
    dome: float = 0.6  # how far an end is rounded off, in radii of that end


class Field(NamedTuple):
    """What a view of a body part shows, and the depth of the flesh on its bones; all in mm."""

    centre: complex
    height: float
    width: float
    flesh: float


FIELDS = {
    "ELBOW": Field(14 + 8j, 190, 160, 24),
    "FINGER": Field(-7 - 70j, 112, 58, 4.5),
    "FOREARM": Field(0, 300, 140, 17),
    "HAND": Field(-8 - 18j, 228, 170, 6),
    "HUMERUS": Field(0, 350, 165, 28),
    "SHOULDER": Field(-12 + 20j, 205, 215, 26),
    "WRIST": Field(-4 + 44j, 160, 105, 8),
}
BODY_PARTS: tuple[str, ...] = tuple(FIELDS)


def _hand() -> list[Bone]:
    bones = [Bone(-14 + 260j, -8 + 68j, 6.8, 9, 14, bow=-3, lean=2), Bone(10 + 260j, 16 + 69j, 5.6, 9, 8)]
    # A ray's start, its angle from straight up in degrees, its bones' lengths and its girth, thumb first.
    rays = (
        (-25 + 40j, -40, (44, 31, 22), 1.1),
        (-14 + 31j, -10, (65, 40, 24, 17), 1.0),
        (-2 + 30j, -2, (63, 44, 28, 18), 1.0),
        (8 + 32j, 6, (56, 41, 26, 18), 0.95),
        (18 + 35j, 14, (52, 33, 18, 16), 0.9),
    )
    radii = ((4.4, 8.0, 7.8), (4.0, 7.6, 5.6), (3.4, 6.0, 4.8), (2.4, 5.0, 3.4))
    for start, angle, lengths, girth in rays:
        up = cmath.rect(1, np.radians(angle - 90))
        for length, (shaft, near, far) in zip(lengths, radii[: len(lengths) - 1] + radii[-1:], strict=True):
            bones.append(Bone(start, start + length * up, girth * shaft, girth * near, girth * far))
            start += (length + 1.8) * up
    carpals = (-22 + 44j, -12 + 40j, -1 + 41j, 12 + 44j, -13 + 56j, 1 + 58j, 13 + 58j)
    return bones + [Bone(at - 3 + 7j, at + 3 - 7j, 7, 7, 7) for at in carpals]


def _elbow(flexion: float) -> list[Bone]:
    turn = cmath.rect(1, -flexion)  # of the forearm about the hinge at 0
    return [
        Bone(-4 - 260j, 4j, 10, 12, 25),
        Bone((-4 + 240j) * turn, (-9 - 20j) * turn, 7, 9, 13, lean=-2),
        Bone((20 + 240j) * turn, (13 + 9j) * turn, 6.5, 9, 11),
    ]


HAND_BONES = _hand()
FOREARM_BONES = [
    Bone(-12 - 112j, -13 + 122j, 7, 10.5, 14, bow=6, lean=2),
    Bone(8 - 138j, 14 + 117j, 7, 13, 8, bow=-3),
    Bone(0 - 330j, 0 - 116j, 11, 20, 28),
    Bone(-18 + 126j, -14 + 142j, 8, 8, 8),
    Bone(0 + 127j, 2 + 143j, 8, 8, 8),
    Bone(13 + 126j, 14 + 139j, 6, 6, 6),
    Bone(-4 + 146j, -4 + 210j, 6, 8, 6),
]
HUMERUS_BONES = [
    Bone(0 + 140j, 4 - 140j, 11, 28, 21, bow=3, lean=-9, dome=1),
    Bone(9 + 300j, 7 + 135j, 7.5, 10, 13),
    Bone(-12 + 300j, -12 + 144j, 7, 10, 11),
    Bone(-64 - 10j, -52 - 134j, 17, 6, 28, bow=7, depth=0.2),
    Bone(-58 - 122j, -24 - 134j, 9, 12, 16, depth=0.5),
    Bone(-160 - 150j, -14 - 168j, 6, 9, 8, bow=-8),
]
SHOULDER_BONES = [
    Bone(48 + 250j, 36 - 30j, 11, 14, 22, lean=-9, dome=1),
    Bone(-140 - 44j, 0 - 58j, 5.5, 9, 7.5, bow=-9),
    Bone(-60 - 34j, 30 - 58j, 6, 4, 9, bow=4, depth=0.7),
    Bone(-48 + 112j, -34 - 14j, 19, 6, 32, bow=7, depth=0.2),
    Bone(-38 - 2j, 6 - 18j, 8, 10, 16, depth=0.5),
    Bone(-24 - 20j, 10 - 30j, 5, 7, 5, bow=-5, depth=0.8),
    *(Bone(complex(-150, y), complex(-66, y + 50), 6, 6, 6, -16, depth=0.4) for y in range(-60, 120, 36)),
]


def anatomy(rng: np.random.Generator, body_part: str, mirrored: bool, centre: complex) -> list[Bone]:
    """The bones of one person in one projection: build, girth and obliquity vary."""
    flexion, build, girth = rng.uniform(0.1, 1.5), rng.normal(1, 0.04), rng.normal(1, 0.06)
    oblique, side = rng.uniform(0.85, 1), -1 if mirrored else 1
    skeletons = {"FOREARM": FOREARM_BONES, "HUMERUS": HUMERUS_BONES, "SHOULDER": SHOULDER_BONES}

    def moved(point: complex) -> complex:
        x, y = rng.normal(0, 0.5, 2).tolist()
        off = build * (point - centre)
        return centre + complex(side * oblique * off.real + x, off.imag + y)

    varied = []
    for bone in _elbow(flexion) if body_part == "ELBOW" else skeletons.get(body_part, HAND_BONES):
        shaft, end_a, end_b = (girth * rng.normal(1, 0.04, 3) * bone[2:5]).tolist()
        a, b, bow, lean = moved(bone.a), moved(bone.b), side * bone.bow, side * bone.lean
        varied.append(Bone(a, b, shaft, end_a, end_b, bow, lean, bone.depth, bone.dome))
    return varied
