"""The place of ``groundloc demo``: a street corner with a fountain, always the same for a seed."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from matching.training.builder import FloatArray, Place, PlaceBuilder, Rendering
from matching.training.cameras import look_at
from matching.training.light import light_row
from matching.training.world import REVEAL, WINDOW, Kind


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One photo to be taken of the demo's place."""

    name: str  # file name without extension
    cam_from_world: FloatArray  # (4, 4)
    light: torch.Tensor
    exposure: float = 1.0


@dataclass(frozen=True, kw_only=True)
class DemoPlace:
    """The place, its camera, 24 map shots in daylight and 12 query shots in other light."""

    place: Place
    K: FloatArray  # (3, 3) pixels
    image_size: tuple[int, int]
    map_shots: list[Shot]
    query_shots: list[Shot]

    def render(self, shot: Shot) -> Rendering:
        """Take one of the photos."""
        return self.place.render(
            self.K, self.image_size, shot.cam_from_world, shot.light, exposure=shot.exposure
        )


def _facades(b: PlaceBuilder) -> None:
    """Two houses at the corner and a garden wall that closes the place on the left."""
    dirt = b.texture("noisy")
    brick, plaster, stone = b.texture("bricks"), b.texture("stone"), b.texture("cobbles")
    for center, half, yaw, wall, tint, params in (
        (
            (-3.0, 11.0, 4.5),
            (7.0, 2.0, 4.5),
            0.0,
            brick,
            (1.3, 1.15, 1.05),
            (2.3, 2.8, 0.6, 0.85, 0.25),
        ),
        (
            (9.0, 5.0, 5.5),
            (2.0, 8.5, 5.5),
            0.0,
            plaster,
            (1.25, 1.1, 0.8),
            (2.8, 3.2, 0.7, 1.0, 0.3),
        ),
    ):
        face = b.material(
            wall, 2.6, tint=tint, overlay=dirt, overlay_weight=0.45, overlay_scale=9.1
        )
        glass = b.material(b.texture("glass"), params[3] * 2.0, gloss=0.08, cell_jitter=0.9)
        frame = b.material(plaster, 1.3, tint=(1.2, 1.2, 1.15))
        b.add(
            Kind.FACADE,
            center,
            half,
            face,
            yaw=yaw,
            params=params,
            faces={WINDOW: glass, REVEAL: frame},
        )
    rubble = b.material(stone, 1.7, overlay=dirt, overlay_weight=0.5, overlay_scale=5.7)
    b.add(Kind.BOX, (-10.2, 3.0, 1.5), (0.3, 7.0, 1.5), rubble)
    cap = b.material(plaster, 0.9)
    b.add(Kind.BOX, (-10.2, 3.0, 3.08), (0.42, 7.1, 0.09), cap)
    # plinths, cornices and a string course give the facades relief
    trim = b.material(plaster, 1.1, overlay=dirt, overlay_weight=0.4)
    b.add(Kind.BOX, (-3.0, 8.93, 0.35), (7.05, 0.09, 0.35), trim)
    b.add(Kind.BOX, (-3.0, 8.85, 8.9), (7.2, 0.3, 0.16), trim)
    b.add(Kind.BOX, (6.93, 5.0, 0.4), (0.09, 8.5, 0.4), trim)
    b.add(Kind.BOX, (6.85, 5.0, 10.9), (0.3, 8.6, 0.18), trim)
    b.add(Kind.BOX, (6.9, 5.0, 3.35), (0.14, 8.5, 0.1), trim)


def _ground(b: PlaceBuilder) -> None:
    dirt = b.texture("noisy")
    paving = b.material(
        b.texture("cobbles"), 3.1, overlay=dirt, overlay_weight=0.6, overlay_scale=8.3
    )
    b.add(Kind.BOX, (0.0, 0.0, -0.1), (40.0, 40.0, 0.1), paving)
    slabs = b.material(b.texture("tiles"), 2.4, overlay=dirt, overlay_weight=0.5, overlay_scale=4.9)
    b.add(Kind.BOX, (-3.0, 8.0, 0.06), (7.0, 0.9, 0.06), slabs)
    b.add(Kind.BOX, (6.1, 4.0, 0.07), (0.85, 7.5, 0.07), slabs)
    rug = b.material(b.texture("leaves"), 4.2)
    b.add(Kind.CYLINDER, (-1.0, 3.2, 0.02), (3.4, 3.4, 0.03), rug)


def _fountain(b: PlaceBuilder) -> None:
    stone = b.texture("stone")
    body = b.material(
        stone, 1.4, overlay=b.texture("leaves"), overlay_weight=0.5, overlay_scale=2.3
    )
    b.add(Kind.CYLINDER, (-1.0, 3.2, 0.3), (1.5, 1.5, 0.3), body)
    b.add(Kind.CYLINDER, (-1.0, 3.2, 0.62), (1.62, 1.62, 0.06), b.material(stone, 0.9))
    b.add(Kind.CYLINDER, (-1.0, 3.2, 1.2), (0.28, 0.28, 0.7), body)
    b.add(Kind.ELLIPSOID, (-1.0, 3.2, 1.95), (0.85, 0.85, 0.22), body)
    b.add(Kind.ELLIPSOID, (-1.0, 3.2, 2.5), (0.3, 0.3, 0.5), body)
    b.add(Kind.ELLIPSOID, (-1.0, 3.2, 3.1), (0.2, 0.2, 0.22), body)


def _street(b: PlaceBuilder) -> None:
    """Doors, posters, a kiosk, crates, barrels, benches, lamps, plants."""
    wood, paint_, marks = b.texture("planks"), b.texture("leaves"), b.texture("marks")
    planks = b.material(wood, 1.2)
    b.add(
        Kind.BOX,
        (-4.2, 8.94, 1.25),
        (0.75, 0.12, 1.25),
        b.material(wood, 1.6, tint=(0.6, 0.8, 0.7)),
    )
    b.add(
        Kind.BOX, (6.94, 1.2, 1.35), (0.12, 0.85, 1.35), b.material(wood, 1.9, tint=(0.9, 0.5, 0.4))
    )
    for k, (x, z) in enumerate(((-8.6, 1.7), (-6.4, 1.75), (-1.6, 1.6), (1.3, 1.7), (3.0, 1.65))):
        art = b.material(b.texture("poster" if k % 2 else "leaves"), 1.5 + 0.1 * k, align=True)
        b.add(Kind.BOX, (x, 8.86, z), (0.62 + 0.05 * k, 0.03, 0.85), art)
    for k, y in enumerate((-1.4, 3.9, 6.3)):
        art = b.material(b.texture("poster"), 1.9, align=True)
        b.add(Kind.BOX, (6.86, y, 1.8 + 0.1 * k), (0.03, 0.7, 0.9), art)
    for k, y in enumerate((-1.5, 1.5, 4.6)):
        art = b.material(b.texture("leaves" if k % 2 else "poster"), 1.7, align=True)
        b.add(Kind.BOX, (-9.87, y, 1.6), (0.03, 0.8, 0.8), art)
    sign = b.material(marks, 1.6, align=True, emission=0.2)
    b.add(Kind.BOX, (-4.2, 8.75, 3.0), (1.5, 0.08, 0.3), sign)
    stripes = b.material(b.texture("tiles"), 0.9, tint=(1.3, 0.7, 0.6))
    b.add(Kind.BOX, (6.1, 1.2, 3.0), (0.95, 1.6, 0.04), stripes, pitch=0.35)
    # kiosk with a round advertising column beside it
    b.add(Kind.BOX, (3.9, 6.0, 1.1), (0.9, 0.8, 1.1), b.material(paint_, 1.7), yaw=0.3)
    b.add(Kind.BOX, (3.9, 6.0, 2.28), (1.15, 1.05, 0.08), planks, yaw=0.3)
    column = b.material(
        b.texture("poster"), 1.6, overlay=paint_, overlay_weight=0.6, overlay_scale=2.9
    )
    b.add(Kind.CYLINDER, (-6.8, 5.6, 1.3), (0.55, 0.55, 1.3), column)
    b.add(Kind.ELLIPSOID, (-6.8, 5.6, 2.7), (0.62, 0.62, 0.3), planks)
    for k in range(9):
        size = b.uniform(0.22, 0.42)
        x, y = -8.9 + 0.9 * (k % 4) + b.uniform(-0.2, 0.2), 7.3 - 0.8 * (k // 4)
        own = b.material(b.texture(("planks", "leaves", "marks")[k % 3]), 0.8)
        b.add(Kind.BOX, (x, y, size), (size, size * 0.9, size), own, yaw=b.uniform(0, 1.5))
    for k in range(4):
        own = b.material(b.texture("planks"), 0.9, tint=(0.9, 0.7, 0.5))
        b.add(Kind.CYLINDER, (5.2 - 0.1 * k, 8.0 - 1.0 * k, 0.5), (0.3, 0.3, 0.45), own)
    for x, y, yaw in ((-4.6, 1.6, 0.5), (2.6, 2.0, -0.4)):
        across = (-math.sin(yaw), math.cos(yaw))
        b.add(Kind.BOX, (x, y, 0.45), (0.9, 0.22, 0.04), planks, yaw=yaw)
        b.add(
            Kind.BOX,
            (x + 0.24 * across[0], y + 0.24 * across[1], 0.8),
            (0.9, 0.03, 0.2),
            planks,
            yaw=yaw,
        )
        for side in (-0.7, 0.7):
            foot = (x + side * math.cos(yaw), y + side * math.sin(yaw), 0.21)
            b.add(Kind.BOX, foot, (0.05, 0.2, 0.21), planks, yaw=yaw)
    iron = b.material(b.texture("plain"), 1.0, tint=(0.15, 0.17, 0.16), gloss=0.05)
    globe = b.material(b.texture("plain"), 1.0, emission=0.6)
    for x, y in ((-7.9, 1.0), (4.6, 3.6)):
        b.add(Kind.CYLINDER, (x, y, 1.7), (0.05, 0.05, 1.7), iron)
        b.add(Kind.ELLIPSOID, (x, y, 3.55), (0.2, 0.2, 0.22), globe)
    fence = b.material(b.texture("plain"), 1.0, tint=(0.2, 0.2, 0.2))
    b.add(
        Kind.PANEL,
        (-9.6, -3.0, 0.5),
        (1.6, 0.5, 0.0),
        fence,
        yaw=1.4,
        roll=math.pi / 2,
        params=(1, 0.14, 0.18),
    )
    green = b.texture("grass")
    for x, y, z, radius in ((-8.3, 4.1, 0.75, 0.6), (5.3, -1.2, 0.8, 0.6), (1.0, 7.9, 0.75, 0.5)):
        own = b.material(green, 0.7, tint=(0.7, 1.3, 0.5), cell_jitter=0.7)
        pot = b.material(b.texture("tiles"), 0.8, tint=(1.1, 0.7, 0.5))
        b.add(
            Kind.BUSH, (x, y, z + 0.25), (radius, radius, radius), own, params=(0.11, 0.5, 0.8, 3)
        )
        b.add(Kind.BUSH, (x, y, z + 0.25), (radius * 0.75,) * 3, own, params=(0.11, 0.55, 0.95, 5))
        b.add(Kind.CYLINDER, (x, y, 0.28), (0.36, 0.36, 0.28), pot)


def demo_place(seed: int = 0, *, texture_size: int = 512) -> DemoPlace:
    """The demo's street corner with cameras and light.

    Args:
        seed: Of textures and small variations; the layout stays the same.
        texture_size: Pixels per side of the textures, a power of two.

    Returns:
        24 map shots on an arc in front of the corner in sunlight, and 12 query shots off that arc
        in other light: another sun, overcast, evening, night with street lamps.
    """
    b = PlaceBuilder(seed, texture_size)
    _ground(b)
    _facades(b)
    _fountain(b)
    _street(b)
    sky = b.texture("noisy")
    place = b.build()

    day = light_row(key=(-0.45, -0.75, 0.75, 0.0), clouds=sky, cloud_weight=0.25)
    rng = np.random.default_rng(seed)
    map_shots = []
    for k in range(24):
        angle = math.radians(-62 + 62 * (k % 12) / 11 + 10)
        distance = 11.5 if k < 12 else 8.2
        position = np.array(
            [
                2.6 + distance * math.sin(angle),
                7.0 - distance * math.cos(angle),
                1.65 + 0.5 * (k % 2),
            ]
        )
        target = np.array([1.2 + 3.2 * math.sin(2.1 * k), 7.5, 2.1]) + rng.normal(0, 0.25, 3)
        map_shots.append(
            Shot(name=f"map_{k:02d}", cam_from_world=look_at(position, target), light=day)
        )
    lights = (
        light_row(key=(0.6, -0.6, 0.6, 0.0), clouds=sky, cloud_weight=0.3),
        light_row(
            key=(-0.3, -0.6, 0.9, 0.0), key_color=(0.5, 0.5, 0.5), sky=(0.75, 0.8, 0.85),
            ground=(0.5, 0.5, 0.48), clouds=sky, cloud_weight=0.1, haze_density=0.008,
        ),
        light_row(
            key=(-0.9, -0.5, 0.28, 0.0), key_color=(2.4, 1.5, 0.8), sky=(0.3, 0.33, 0.55),
            horizon=(0.9, 0.6, 0.4), ground=(0.2, 0.16, 0.14), clouds=sky, cloud_weight=0.3,
        ),
        light_row(
            key=(4.6, 3.6, 3.55, 1.0), key_color=(9.0, 7.2, 4.5), sky=(0.05, 0.06, 0.1),
            horizon=(0.06, 0.06, 0.09), ground=(0.03, 0.03, 0.035),
            lamps=((-7.9, 1.0, 3.55, 9.0, 7.0, 4.2),), clouds=sky,
        ),
    )  # fmt: skip
    query_shots = []
    for k in range(12):
        angle = math.radians(-48 + 54 * (k * 5 % 12) / 11)
        distance = 8.8 + 2.2 * rng.random()
        position = np.array(
            [
                2.3 + distance * math.sin(angle),
                6.9 - distance * math.cos(angle),
                1.5 + 0.6 * rng.random(),
            ]
        )
        target = np.array([0.5 + 3.0 * rng.normal(), 7.5, 2.0 + 0.3 * rng.normal()])
        pose = look_at(position, target, roll=float(rng.normal(0, 0.05)))
        light = lights[k % 4]
        exposure = 1.6 if k % 4 == 3 else 1.0
        query_shots.append(
            Shot(name=f"query_{k:02d}", cam_from_world=pose, light=light, exposure=exposure)
        )
    K = np.array([[540.0, 0.0, 320.0], [0.0, 540.0, 240.0], [0.0, 0.0, 1.0]])
    return DemoPlace(
        place=place, K=K, image_size=(640, 480), map_shots=map_shots, query_shots=query_shots
    )
