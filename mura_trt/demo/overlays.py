"""What lies on a limb or is written on a film and says nothing of the label.

Plaster, a ring or a small clip, the lead letter and burned-in text: healthy and abnormal studies have them alike.
"""

from __future__ import annotations

import cmath
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mura_trt.demo.anatomy import Bone, Field
from mura_trt.demo.film import Camera, Floats, noise
from mura_trt.demo.lesions import Change, Stroke, metal

PLASTER = 0.022  # attenuation per mm

# Five columns a glyph, the lowest bit on top.
GLYPHS = {
    **{"0": "3e4141413e", "1": "00427f4000", "2": "6251494946", "3": "2241494936", "4": "1814127f10"},
    **{"5": "2f49494931", "6": "3e49494932", "7": "0101710907", "8": "3649494936", "9": "264949493e"},
    **{"A": "7e0909097e", "B": "7f49494936", "C": "3e41414122", "D": "7f4141221c", "E": "7f49494941"},
    **{"F": "7f09090901", "G": "3e4149497a", "H": "7f0808087f", "I": "00417f4100", "J": "3040413f01"},
    **{"K": "7f08142241", "L": "7f40404040", "M": "7f020c027f", "N": "7f0408107f", "O": "3e4141413e"},
    **{"P": "7f09090906", "Q": "3e4151215e", "R": "7f09192946", "S": "2649494932", "T": "01017f0101"},
    **{"U": "3f4040403f", "V": "1f2040201f", "W": "3f4038403f", "X": "6314081463", "Y": "0708700807"},
    **{"Z": "6151494543", "-": "0808080808", ":": "0000360000", "/": "2010080402", ".": "0060600000"},
}
_FONT: NDArray[np.bool_] = np.stack(
    [
        np.unpackbits(np.frombuffer(bytes.fromhex(code), np.uint8)[:, None], axis=1, bitorder="little").T[:7] > 0
        for code in GLYPHS.values()
    ]
)


def lead_letter(rng: np.random.Generator, size: tuple[int, int], left: bool) -> Change:
    """A lead L or R in a corner of the image."""
    tall = 0.05 * max(size) * rng.uniform(0.8, 1.3)
    free = np.array(size) - (tall, 0.55 * tall)
    y, x = (free * np.abs(rng.integers(0, 2, 2) - rng.uniform(0.05, 0.1, 2))).tolist()
    line = [0j, 1j, 0.5 + 1j] if left else [1j, 0j, 0.35 + 0j, 0.5 + 0.25j, 0.35 + 0.5j, 0.5j, 0.5 + 1j]
    camera = Camera(size, complex(tall), complex(x, y))
    return metal(camera, [Stroke(a, b, 0.07, 3.5) for a, b in pairwise(line)])


def plaster(rng: np.random.Generator, camera: Camera, field: Field, squared: Floats) -> Floats:
    """The attenuation of a cast about a limb; `squared` is that of half its thickness in mm, below 0 beside it."""
    padding, thick = rng.uniform(0.8, 2), rng.uniform(3, 6)
    girth = field.flesh + 10
    inner = squared + 2 * girth * padding
    shell = 2 * (np.sqrt(np.maximum(inner + 2 * girth * thick, 0)) - np.sqrt(np.maximum(inner, 0)))
    rows, columns = np.arange(camera.size[0], dtype=np.float32), np.arange(camera.size[1], dtype=np.float32)
    per_mm = 1 / camera.turn
    start = -camera.origin * per_mm - field.centre
    y = (rows * per_mm.real)[:, None] + columns * per_mm.imag + start.imag
    x = columns * per_mm.real - (rows * per_mm.imag)[:, None] + start.real
    # The bandage goes round: threads slightly aslant, and layers that overlap unevenly.
    pitch, slant = rng.uniform(3, 6), rng.uniform(0.1, 0.3)
    woven = np.sin((2 * np.pi / pitch) * (y + slant * x)) * (1 + 0.5 * np.sin((2 * np.pi / pitch) * (x - slant * y)))
    uneven = noise(rng, camera.size, max(4.0, 8 * camera.scale))
    # It ends within the view at one side or at none.
    end, side = rng.uniform(0.1, 0.6) * field.height, int(rng.choice([-1, 1]))
    ends = np.clip((end - side * y) / 3 + 0.5, 0, 1)
    dense = PLASTER * rng.uniform(0.8, 1.3)
    return np.asarray(dense * shell * (1 + 0.07 * woven + 0.12 * uneven) * ends, np.float32)


def jewellery(rng: np.random.Generator, camera: Camera, bones: list[Bone]) -> list[Stroke]:
    """A ring about a finger, or one or two small metal things on the skin: pellets, or a clip with its wire."""
    # A finger's first bone is known by its length and its slender far end.
    fingers = [
        b for b in bones if 28 < abs(b.b - b.a) < 50 and b.shaft < 6 and b.end_b < 0.88 * b.end_a and b.depth == 1
    ]
    seen = [bone for bone in fingers if camera.off_centre(np.array([(bone.a + bone.b) / 2]))[0] < 0.4]
    kind, part = rng.random(), rng.random()
    if seen and kind < 0.6:
        bone = seen[int(part * len(seen))]
        along = cmath.rect(1, cmath.phase(bone.b - bone.a))
        middle = bone.middle(rng.uniform(0.35, 0.55) * abs(bone.b - bone.a))
        across, thick = bone.shaft + rng.uniform(2.5, 4), max(rng.uniform(0.5, 0.8), 0.5 * camera.network_pixel)
        # Seen aslant, a ring is an ellipse.
        turns = np.exp(2j * np.pi * np.arange(17) / 16)
        outline = (middle + along * (rng.uniform(1.6, 3) * turns.real + 1j * across * turns.imag)).tolist()
        return [Stroke(p, q, thick, 2.0) for p, q in pairwise(outline)]
    y, x = rng.uniform(0.1, 0.9, 2) * camera.size
    at = (complex(x, y) - camera.origin) / camera.turn
    round_off = max(rng.uniform(1.2, 2), 1.2 * camera.network_pixel)
    if kind < 0.8:
        return [Stroke(at, at, round_off, 3.0)]
    wire = cmath.rect(rng.uniform(15, 30), rng.uniform(0, 2 * np.pi))
    bend = wire * cmath.rect(0.8, rng.normal(0, 0.5))
    return [
        Stroke(at, at, 1.3 * round_off, 0.8),
        Stroke(at + wire, at + wire + bend, 0.35, 0.3),
        Stroke(at, at + wire, 0.35, 0.3),
    ]


def _text(rng: np.random.Generator) -> NDArray[np.bool_]:
    """A string of 2 to 9 glyphs with one empty column between them and a rim of one."""
    chosen = _FONT[rng.integers(0, len(_FONT), int(rng.integers(2, 10)))]
    spaced = np.pad(chosen, ((0, 0), (0, 0), (1, 0)))
    return np.pad(np.concatenate(list(spaced), axis=1), ((1, 1), (0, 1)))


def write_letters(rng: np.random.Generator, gray: Floats) -> None:
    """Burn one to three strings of random letters and digits into the image, near its borders."""
    for _ in range(int(rng.integers(1, 4))):
        bits, boxed, upright = _text(rng), rng.random() < 0.4, rng.random() < 0.75
        bright = rng.uniform(190, 255)
        largest = max(1, int(0.075 * min(gray.shape) / len(bits)))
        size = int(rng.integers(1, min(largest, 3) + 1))
        bits = np.kron(bits if upright else np.rot90(bits), np.ones((size, size), bool))
        bits = bits[: gray.shape[0] - 4, : gray.shape[1] - 4]
        free = np.array(gray.shape) - bits.shape
        # At the border that the string runs along, anywhere along it.
        along, edge = int(upright), int(rng.random() < 0.5)
        corner = [0, 0]
        corner[along] = int(rng.random() * free[along])
        corner[1 - along] = int(abs(edge - rng.uniform(0.005, 0.04)) * free[1 - along])
        window = gray[corner[0] : corner[0] + bits.shape[0], corner[1] : corner[1] + bits.shape[1]]
        if boxed:
            window[:] = 0
        window[bits] = bright
