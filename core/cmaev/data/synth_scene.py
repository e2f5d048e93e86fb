"""Scenes whose class is told by motion alone.

A bright textured object lies at a point of a torus: column, row, angle and log size all wrap
around. A class moves that point along one axis, one way or the other. The point at mid-time is
uniform on the torus, so in every single frame it is uniform too, whatever the class; appearance,
speed and the drift of the background do not depend on the class. Hence a single frame carries no
information about the class, and a video of one class played backwards is distributed exactly as
its opposite.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FRAMES: Final = 32
SIZE: Final = 64
RATE: Final = 16
SYNTH_CLASSES: Final = (
    "left",
    "right",
    "up",
    "down",
    "clockwise",
    "counter_clockwise",
    "expanding",
    "shrinking",
)
# Axis of the torus (column, row, angle, log size) and direction along it; rows count downwards.
_MOTION: Final = {
    "left": (0, -1),
    "right": (0, 1),
    "up": (1, -1),
    "down": (1, 1),
    "clockwise": (2, 1),
    "counter_clockwise": (2, -1),
    "expanding": (3, 1),
    "shrinking": (3, -1),
}
_RADIUS: Final = (8.0, 20.0)
# Lengths of the torus: pixels, pixels, radians, and the range of the log of the radius.
_PERIODS: Final = np.array([SIZE, SIZE, 2 * np.pi, np.log(_RADIUS[1] / _RADIUS[0])])
# Least and largest speed on each axis, per frame, in the units of _PERIODS.
_SPEEDS: Final = np.array([[0.7, 1.5], [0.7, 1.5], [0.05, 0.12], [0.02, 0.04]])
_SPRITE: Final = 64
_SPRITE_RADIUS: Final = 22.0

Pixels = NDArray[np.float32]


@dataclass(frozen=True, eq=False, kw_only=True)
class Scene:
    """Everything about a video but its class.

    Attributes:
        sprite: the object, RGB and alpha of 0 to 255, (64, 64, 4).
        background: RGB of 0 to 255, periodic, (64, 64, 3).
        middle: (4,), where the object is at mid-time.
        speeds: (4,), how fast it would move along each axis.
        phase: (2,), where the background is at mid-time, (column, row).
        drift: (2,), how far the background moves per frame.
    """

    sprite: NDArray[np.uint8]
    background: Pixels
    middle: NDArray[np.float64]
    speeds: NDArray[np.float64]
    phase: NDArray[np.float64]
    drift: NDArray[np.float64]


def draw_scene(rng: np.random.Generator) -> Scene:
    """Draws a scene; every quantity from a distribution of its own."""
    heading, pace = rng.uniform(0, 2 * np.pi), rng.uniform(0.0, 0.4)
    return Scene(
        sprite=_draw_sprite(rng),
        background=_draw_background(rng),
        middle=rng.uniform(0, _PERIODS),
        speeds=rng.uniform(_SPEEDS[:, 0], _SPEEDS[:, 1]),
        phase=rng.uniform(0, SIZE, 2),
        drift=pace * np.array([np.cos(heading), np.sin(heading)]),
    )


def trajectory(scene: Scene, label: str) -> NDArray[np.float64]:
    """Where the object is in each frame: (T, 4), column, row, angle, log size above the least."""
    axis, direction = _MOTION[label]
    states: NDArray[np.float64] = np.tile(scene.middle, (FRAMES, 1))  # (T, 4)
    states[:, axis] += direction * scene.speeds[axis] * _times()
    wrapped: NDArray[np.float64] = states % _PERIODS
    return wrapped


def render(scene: Scene, label: str) -> NDArray[np.uint8]:
    """The frames of a scene whose object moves as `label` says: (T, 64, 64, 3)."""
    sprite = Image.frombytes("RGBa", (_SPRITE, _SPRITE), scene.sprite.tobytes())
    frames = np.empty((FRAMES, SIZE, SIZE, 3), dtype=np.uint8)
    for number, (state, time) in enumerate(zip(trajectory(scene, label), _times(), strict=True)):
        below = _shift(scene.background, scene.phase + scene.drift * time)
        above = _place(sprite, state)
        alpha = above[..., 3:] / np.float32(255)
        frames[number] = np.rint(np.clip(below * (1 - alpha) + above[..., :3], 0, 255))
    return frames


def _times() -> NDArray[np.float64]:
    """Frame times around mid-time 0, (T,)."""
    return np.arange(FRAMES, dtype=np.float64) - (FRAMES - 1) / 2


def _place(sprite: Image.Image, state: NDArray[np.float64]) -> Pixels:
    """The object on an empty torus: premultiplied RGBA, (64, 64, 4)."""
    column, row, angle, log_size = state
    whole = np.floor([column, row]).astype(int)
    left, top = np.array([column, row]) - whole + SIZE / 2
    scale = _SPRITE_RADIUS / (_RADIUS[0] * np.exp(log_size))
    a, b = scale * np.cos(angle), scale * np.sin(angle)
    middle = _SPRITE / 2
    # Output pixel to sprite pixel: with rows downwards, a growing angle turns clockwise.
    affine = (a, b, middle - a * left - b * top, -b, a, middle + b * left - a * top)
    image = sprite.transform(
        (SIZE, SIZE), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR
    )
    centred = np.asarray(image, dtype=np.float32)
    return np.roll(centred, (whole[1] - SIZE // 2, whole[0] - SIZE // 2), axis=(0, 1))


def _shift(image: Pixels, offset: NDArray[np.float64]) -> Pixels:
    """A periodic image moved by `offset` (columns, rows), linear between pixels."""
    whole = np.floor(offset).astype(int)
    dx, dy = (offset - whole).astype(np.float32)
    base: Pixels = np.roll(image, (whole[1], whole[0]), axis=(0, 1))
    base = base * (1 - dx) + np.roll(base, 1, axis=1) * dx
    shifted: Pixels = base * (1 - dy) + np.roll(base, 1, axis=0) * dy
    return shifted


def _noise(rng: np.random.Generator, side: int, *, grain: float) -> Pixels:
    """Smooth periodic noise of unit variance, (side, side, 3); `grain` is its size in pixels."""
    spectrum = np.fft.rfft2(rng.standard_normal((side, side, 3)), axes=(0, 1))
    rows, columns = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
    spectrum *= np.exp(-2 * (np.pi * grain) ** 2 * (rows**2 + columns**2))[..., None]
    spectrum[0, 0] = 0
    noise = np.fft.irfft2(spectrum, s=(side, side), axes=(0, 1))
    scaled: Pixels = (noise / noise.std()).astype(np.float32)
    return scaled


def _draw_background(rng: np.random.Generator) -> Pixels:
    tint = rng.uniform(0.7, 1.0, 3)
    level, contrast = rng.uniform(35, 75), rng.uniform(6, 12)
    noise = _noise(rng, SIZE, grain=rng.uniform(1.5, 4.0))
    return np.clip(level * tint + contrast * noise, 0, 255).astype(np.float32)


def _draw_sprite(rng: np.random.Generator) -> NDArray[np.uint8]:
    """A blob of random outline and texture with one dark, off-centre spot: premultiplied RGBA."""
    axis = (np.arange(_SPRITE) + 0.5 - _SPRITE / 2) / _SPRITE_RADIUS
    x, y = axis[None], axis[:, None]
    distance, theta = np.hypot(x, y), np.arctan2(y, x)
    outline = np.full_like(theta, 0.95)
    for order in range(1, 5):
        phase = rng.uniform(0, 2 * np.pi)
        outline += rng.uniform(0.02, 0.3) / order * np.cos(order * theta + phase)
    alpha = np.clip((np.clip(outline, 0.4, 1.4) - distance) * _SPRITE_RADIUS + 0.5, 0, 1)
    where, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.45)
    spot = np.hypot(x - 0.45 * np.cos(where), y - 0.45 * np.sin(where)) < reach
    colour = rng.uniform(170, 235) * rng.uniform(0.7, 1.0, 3)
    texture = colour + rng.uniform(10, 25) * _noise(rng, _SPRITE, grain=rng.uniform(2.0, 5.0))
    texture = np.where(spot[..., None], texture * rng.uniform(0.35, 0.6, 3), texture)
    rgb = np.clip(texture, 0, 255) * alpha[..., None]
    rgba = np.concatenate([rgb, 255 * alpha[..., None]], axis=-1)
    sprite: NDArray[np.uint8] = np.rint(rgba).astype(np.uint8)
    return sprite
