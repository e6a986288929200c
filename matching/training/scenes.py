"""Random places: rooms, streets, monuments, open land, heaps of things; in whole batches."""

import torch

from matching.training.draft import Draft, Palette
from matching.training.geometry import Amount
from matching.training.indoors import heap, room
from matching.training.monuments import monument
from matching.training.outdoors import land, street
from matching.training.stage import Stage
from matching.training.world import Scenes

# shares of a batch; indoor scenes are the hardest on real photos and the commonest in use
ROOM_SHARE, STREET_SHARE, MONUMENT_SHARE, LAND_SHARE = 0.42, 0.2, 0.14, 0.1  # the rest: heaps


def draw_stage(
    count: int, generator: torch.Generator, palette: Palette, *, difficulty: Amount
) -> Stage:
    """Draw a batch of places.

    Args:
        count: Number of scenes.
        generator: Source of all draws; its device is the result's.
        palette: Textures.
        difficulty: 0 to 1: how many things exist in one view only.
    """
    rooms = round(ROOM_SHARE * count)
    streets = round(STREET_SHARE * count)
    monuments = min(round(MONUMENT_SHARE * count), count - rooms - streets)
    lands = min(round(LAND_SHARE * count), count - rooms - streets - monuments)
    makers = (
        (room, rooms),
        (street, streets),
        (monument, monuments),
        (land, lands),
        (heap, count - rooms - streets - monuments - lands),
    )
    parts = []
    for make, number in makers:
        if number > 0:
            parts.append(make(Draft(number, generator, palette, 0.16 * difficulty)))
    return Stage(
        scenes=Scenes(
            geometry=torch.cat([p.scenes.geometry for p in parts]).contiguous(),
            materials=torch.cat([p.scenes.materials for p in parts]).contiguous(),
        ),
        low=torch.cat([p.low for p in parts]),
        high=torch.cat([p.high for p in parts]),
        targets=torch.cat([p.targets for p in parts]),
        indoor=torch.cat([p.indoor for p in parts]),
    )
