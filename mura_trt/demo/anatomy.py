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
    sclerosis: float = 0.0  # how much denser the bone is at its ends than elsewhere

    def middle(self, u: float) -> complex:
        """The middle of the tube u mm from a."""
        along = cmath.rect(1, cmath.phase(self.b - self.a))
        part = u / abs(self.b - self.a)
        flare = np.exp(-((abs(self.b - self.a) - u) ** 2) / (2.2 * self.end_b) ** 2)
        return self.a + along * complex(u, self.bow * np.sin(np.pi * part) + self.lean * flare)


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
# How far apart the bones lie sideways, at least and at most, as a share of what an anteroposterior view shows.
PROJECTIONS = {"anteroposterior": (0.88, 1.05), "oblique": (0.62, 0.86), "lateral": (0.32, 0.55)}


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


def _elbow(flexion: float, apart: float) -> list[Bone]:
    """The elbow's bones; apart: how far radius and ulna lie side by side, 1 as seen from the front."""
    turn = cmath.rect(1, -flexion)  # of the forearm about the hinge at 0

    def turned(x: float, y: float) -> complex:
        return complex(apart * x, y) * turn

    return [
        Bone(-4 - 260j, 4j, 10, 12, 15 + 10 * apart),
        Bone(turned(-4, 240), turned(-9, -20), 7, 9, 13, lean=-2),
        Bone(turned(20, 240), turned(13, 9), 6.5, 9, 11),
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


def _projected(rng: np.random.Generator, body_part: str, projection: str, centre: complex) -> list[Bone]:
    """The bones in one projection, before they vary: turned about the limb's axis, they move together sideways."""
    near, far = PROJECTIONS[projection]
    apart = rng.uniform(near, far)
    if body_part == "ELBOW":  # straight from the front, bent from the side
        return _elbow(rng.uniform(*(0.9, 1.7) if projection == "lateral" else (0, 0.9)), apart)
    skeletons = {"FOREARM": FOREARM_BONES, "HUMERUS": HUMERUS_BONES, "SHOULDER": SHOULDER_BONES}
    bones = skeletons.get(body_part, HAND_BONES)
    if body_part == "FINGER":
        if projection != "lateral":
            return bones
        # A finger is seen from the side alone, the others bent out of the way.
        return [bone for bone in bones if abs(((bone.a + bone.b) / 2 - centre).real) < 12]

    def together(point: complex) -> complex:
        return complex(centre.real + apart * (point - centre).real, point.imag)

    return [bone._replace(a=together(bone.a), b=together(bone.b)) for bone in bones]


def anatomy(rng: np.random.Generator, body_part: str, projection: str, mirrored: bool, centre: complex) -> list[Bone]:
    """The bones of one person in one of PROJECTIONS: build, girth and obliquity vary."""
    build, girth = rng.normal(1, 0.05), rng.normal(1, 0.08)
    side, deep = -1 if mirrored else 1, 0.8 if projection == "lateral" else 1.0

    def moved(point: complex) -> complex:
        x, y = rng.normal(0, 0.6, 2).tolist()
        off = build * (point - centre)
        return centre + complex(side * off.real + x, off.imag + y)

    varied = []
    for bone in _projected(rng, body_part, projection, centre):
        shaft, end_a, end_b = (girth * rng.normal(1, 0.05, 3) * bone[2:5]).tolist()
        end_a, end_b = max(deep * end_a, 0.9 * shaft), max(deep * end_b, 0.9 * shaft)
        a, b, bow, lean = moved(bone.a), moved(bone.b), side * bone.bow, side * bone.lean
        varied.append(Bone(a, b, shaft, end_a, end_b, bow, lean, bone.depth, bone.dome))
    return varied


def worn(rng: np.random.Generator, bones: list[Bone]) -> list[Bone]:
    """The bones with degenerative change, in their order: narrow joints, dense joint ends; and last the osteophytes."""
    changed, spurs = [], []
    for bone in bones:
        along = cmath.rect(1, cmath.phase(bone.b - bone.a))
        narrow = rng.uniform(0.2, 0.9)
        changed.append(
            bone._replace(a=bone.a - narrow * along, b=bone.b + narrow * along, sclerosis=float(rng.uniform(0.15, 0.5)))
        )
        if bone.depth < 0.5:
            continue
        for end, out, wide in ((bone.a, -along, bone.end_a), (bone.middle(abs(bone.b - bone.a)), along, bone.end_b)):
            for side in (-1j, 1j):
                length, lip = min(wide * rng.uniform(0.45, 0.75), 9), rng.uniform(0.3, 0.9)
                if rng.random() < 0.45:
                    root = end + wide * out * (0.7 * side - 0.4)
                    tip = root + length * out * (side + lip) / abs(side + lip)
                    spurs.append(Bone(root, tip, 0.17 * wide, 0.32 * wide, 0.1 * wide, depth=0.8))
    return changed + spurs
