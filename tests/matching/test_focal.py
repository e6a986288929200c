"""Focal lengths from point maps: published numbers, known cameras, wrong points."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from matching.focal import focal_from_pointmap
from tests.golden_rule import pointmap

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "data" / "golden_network.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("mode", ["median", "weiszfeld"])
@pytest.mark.parametrize("case", GOLDEN["focal"], ids=lambda case: case["name"])
def test_published_numbers(case: dict[str, Any], mode: Any) -> None:
    points = np.stack(
        [
            pointmap(
                *(case["seed0"] + k, case["height"], case["width"], focal, pp),
                *(case["noise"], case["outliers"], case.get("zeros", 0.0)),
            )
            for k, (focal, pp) in enumerate(zip(case["focals"], case["pp"], strict=True))
        ]
    )
    got = focal_from_pointmap(
        torch.from_numpy(points),
        torch.tensor(case["pp"], dtype=torch.float32),
        mode=mode,
        min_focal=case.get("min_focal", 0.0),
        max_focal=case.get("max_focal", math.inf),
    )
    np.testing.assert_allclose(got.numpy(), case[mode], rtol=2e-5)


@pytest.mark.parametrize("mode", ["median", "weiszfeld"])
@pytest.mark.parametrize("size", [(48, 64), (65, 33), (2, 2)])
def test_exact_points_give_the_exact_focal_length(mode: Any, size: tuple[int, int]) -> None:
    height, width = size
    middle = ((width - 1) / 2, (height - 1) / 2)
    points = torch.from_numpy(pointmap(0, height, width, 70.0, middle, noise=0, outliers=0))
    torch.testing.assert_close(
        focal_from_pointmap(points[None], mode=mode), torch.tensor([70.0]), rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("mode", ["median", "weiszfeld"])
def test_a_fifth_of_wrong_points_does_little(mode: Any) -> None:
    points = torch.from_numpy(pointmap(3, 60, 80, 90.0, (39.5, 29.5), noise=0, outliers=0.2))
    assert abs(float(focal_from_pointmap(points[None], mode=mode)) / 90 - 1) < 0.05


def test_limits() -> None:
    points = torch.from_numpy(pointmap(0, 30, 40, 200.0, (19.5, 14.5), noise=0, outliers=0))[None]
    sixty_degrees = 40 / (2 * math.tan(math.radians(30)))
    assert float(focal_from_pointmap(points, max_focal=2)) == pytest.approx(2 * sixty_degrees)
    assert float(focal_from_pointmap(points, min_focal=7)) == pytest.approx(7 * sixty_degrees)
