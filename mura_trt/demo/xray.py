"""Draws one synthetic X-ray view of an upper-limb part, with or without a lesion.

Bones are tubes laid out in millimetres; a point is a complex number, x to the right and y down. What the
detector sees is the sum of attenuation times thickness along the ray, put through a film-like tone curve. A
lesion only changes this sum near one bone. Image arrays are float32, rows first.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mura_trt.demo.anatomy import BODY_PARTS, FIELDS, PROJECTIONS, Bone, anatomy, worn
from mura_trt.demo.film import Camera, Floats, aim, collimate, enlarge, expose, noise
from mura_trt.demo.lesions import LESION_KINDS, Change, broken, find_site, implant, metal
from mura_trt.demo.overlays import jewellery, lead_letter, plaster, write_letters

# Attenuation per mm; bone's figures are what it adds to the flesh it takes the place of.
FLESH, CORTEX, MARROW = 0.020, 0.055, 0.014
TABLE_STEP = 0.2  # mm between the entries of a bone's profile

# How often a view is taken or treated so.
PROJECTION_SHARES = (0.45, 0.3, 0.25)  # in the order of PROJECTIONS
COLLIMATED, INVERTED, LETTERED = 0.4, 0.04, 0.35


__all__ = ["LESION_KINDS", "Box", "Drawn", "Person", "draw_view"]


class Box(NamedTuple):
    """A rectangle in pixels of the saved image; x1 and y1 are exclusive."""

    x0: int
    y0: int
    x1: int
    y1: int


class Person(NamedTuple):
    """What all views of a study share, whatever its label."""

    cast: bool = False
    degenerative: bool = False
    jewellery: bool = False


class Drawn(NamedTuple):
    """A drawn view: its (height, width) gray levels, the lesion's box if it has one, and what else it shows."""

    gray: NDArray[np.uint8]
    box: Box | None
    traits: frozenset[str]


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
    # A flared end is wider than it is deep; sclerosis makes the bone next to a joint denser.
    from_end = np.minimum(at / bone.end_a, (length - at) / bone.end_b)
    dense = 1 + bone.sclerosis * np.exp(-np.square(from_end / 0.45))
    depth = (2 * bone.depth * dense * np.sqrt(bone.shaft / radius)).astype(np.float32)
    index = np.clip(u * (1 / TABLE_STEP), 0, len(at) - 1).astype(np.intp)
    across = np.square(s - middle[index])
    outer = np.sqrt(np.maximum(squared(radius, 0)[index] - across, 0))
    inner = np.sqrt(np.maximum(squared(radius - cortex, 0.8)[index] - across, 0))
    return np.asarray(depth[index] * (CORTEX * (outer - inner) + MARROW * (1 + texture) * inner), np.float32)


def _flesh(rng: np.random.Generator, camera: Camera, bones: list[Bone], flesh: float) -> Floats:
    """The square of half the thickness of the flesh in mm: a round wrap of each bone, merged without creases.

    Beside the limb it is below 0.
    """
    coarse = Camera((camera.size[0] // 4 + 2, camera.size[1] // 4 + 2), camera.turn / 4, camera.origin / 4)
    total = np.full(coarse.size, 1e-20, np.float32)
    for bone in bones:
        squared = (min(bone.shaft, 12) + flesh) ** 2 - np.square(coarse.distance(bone.a, bone.b))
        total += np.exp(np.maximum(squared / (flesh**2 / 2), -60))
    # Squares are smooth across the skin, so they are what is enlarged.
    uneven = flesh**2 / 2 * (1 + 0.06 * noise(rng, coarse.size, 9 * coarse.scale))
    return enlarge(np.asarray(uneven * np.log(total), np.float32), camera.size, 4)


def _bounds(change: Change, size: tuple[int, int], visible: float, rim: int) -> Box:
    """The rectangle of the visible change and `rim` pixels around it for the blur, within the image."""
    seen = change.pixels[np.abs(change.by) > min(visible, np.abs(change.by).max() / 2)]
    ys, xs = np.divmod(seen, size[1])
    return Box(
        max(int(xs.min()) - rim, 0),
        max(int(ys.min()) - rim, 0),
        min(int(xs.max()) + rim + 1, size[1]),
        min(int(ys.max()) + rim + 1, size[0]),
    )


def draw_view(
    rng: np.random.Generator,
    lesion_rng: np.random.Generator,
    body_part: str,
    lesion: str | None,
    size: tuple[int, int],
    person: Person = Person(),  # noqa: B008 - immutable
) -> Drawn:
    """Draw one view.

    The lesion takes nothing from rng: calls that differ only in lesion and lesion_rng give images that differ
    by 4 gray levels at most outside the box, and have the same traits.

    Parameters
    ----------
    rng, lesion_rng : independent generators; lesion_rng decides where the lesion lies and how it looks.
    body_part : one of BODY_PARTS.
    lesion : one of LESION_KINDS, or None.
    size : height and width in pixels, 64 or more each.
    person : what the views of a study share beside the lesion.

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
    projection = str(rng.choice(list(PROJECTIONS), p=PROJECTION_SHARES))
    collimated, inverted, lettered = (rng.random(3) < (COLLIMATED, INVERTED, LETTERED)).tolist()
    camera = aim(rng, field, size)
    bones = anatomy(rng, body_part, projection, left, field.centre)
    count = len(bones)
    if person.degenerative:
        bones = worn(rng, bones)
    texture = 0.4 * noise(rng, size, max(1.5, 0.7 * camera.scale))
    opened = collimate(rng, size) if collimated else None

    squared = _flesh(rng, camera, bones[:count], field.flesh)  # osteophytes do not lift the skin
    total: Floats = np.float32(2 * FLESH) * np.sqrt(np.maximum(squared, 0))
    flat = total.reshape(-1)
    for bone in bones:
        near = camera.around(bone, margin=1)
        flat[near.pixels] += _attenuation(bone, near.u, near.s, texture.reshape(-1)[near.pixels])
    if person.cast:
        total += plaster(rng, camera, field, squared)
    worn_metal = [lead_letter(rng, size, left)]
    if person.jewellery:
        worn_metal.append(metal(camera, jewellery(rng, camera, bones)))
    for change in worn_metal:
        flat[change.pixels] += change.by

    # Scatter that leans to one side, then the film's response, its grain and the detector's blur.
    lean_y, lean_x = rng.uniform(-0.06, 0.06, 2).astype(np.float32)
    total += lean_y * np.linspace(-1, 1, size[0], dtype=np.float32)[:, None] + 0.15
    total += lean_x * np.linspace(-1, 1, size[1], dtype=np.float32)
    film = expose(rng, 2 * FLESH * (field.flesh + 7) + 0.4 + 0.25 * person.cast)
    box = None
    if lesion is not None:
        site = find_site(lesion_rng, camera, bones, lesion, opened)
        if lesion == "hardware":
            change = metal(camera, implant(lesion_rng, camera, site, body_part))
        else:
            change = broken(lesion_rng, camera, site, lesion, texture, _attenuation)
        flat[change.pixels] += change.by
        box = _bounds(change, size, film.visible, len(film.blurs))
    gray = film.gray(rng, total, opened)
    if inverted:
        gray = 255 - gray
    if lettered:
        write_letters(rng, gray)
    told = {
        projection: projection != "anteroposterior",
        "collimated": collimated,
        "inverted": inverted,
        "letters": lettered,
        "cast": person.cast,
        "degenerative": person.degenerative,
        "jewellery": person.jewellery,
    }
    pixels = np.ascontiguousarray(np.clip(np.rint(gray), 0, 255), np.uint8)
    return Drawn(pixels, box, frozenset(trait for trait, has in told.items() if has))
