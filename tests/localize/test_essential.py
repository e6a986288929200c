from typing import Any

import numpy as np
import pycolmap
import pytest

from localize.essential import RelativeOptions, epipolar_errors


def test_epipolar_errors_are_first_order_distances() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (200, 3)) + np.array([0, 0, 5])
    rotation = pycolmap.Rotation3d(np.array([0.02, 0.1, -0.05, 1.0])).matrix()
    translation = np.array([1.0, 0.2, 0.1])
    moved = points @ rotation.T + translation
    rays0, rays1 = points[:, :2] / points[:, 2:], moved[:, :2] / moved[:, 2:]
    np.testing.assert_allclose(epipolar_errors(rotation, translation, rays0, rays1), 0, atol=1e-12)
    # half of a shift across the epipolar line: both photos are moved to meet
    line = np.cross(translation, np.column_stack([rays0, np.ones(200)]) @ rotation.T)[:, :2]
    across = line / np.linalg.norm(line, axis=1, keepdims=True)
    shifted = epipolar_errors(rotation, translation, rays0, rays1 + 1e-4 * across)
    np.testing.assert_allclose(shifted, 1e-4 / np.sqrt(2), rtol=0.1)


@pytest.mark.parametrize(
    "values",
    [
        {"max_error_px": 0.0},
        {"min_inliers": 5},
        {"max_iterations": 0},
        {"success_probability": 1.0},
        {"seed": -1},
    ],
)
def test_bad_options_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        RelativeOptions(**values)
