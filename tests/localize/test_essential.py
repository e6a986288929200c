from typing import Any

import numpy as np
import pycolmap
import pytest

from localize import essential
from localize.essential import Estimate, RelativeOptions, best_estimate, epipolar_errors
from localize.intrinsics import QueryCamera


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


@pytest.mark.parametrize(
    ("matches", "better", "chosen_px"),
    [(1000, 0.9, 1000.0), (1000, 0.5, 400.0), (60, 0.5, 1000.0), (60, 0.2, 400.0)],
)
def test_many_matches_do_not_talk_a_focal_length_away(
    monkeypatch: pytest.MonkeyPatch, matches: int, better: float, chosen_px: float
) -> None:
    """Photos guessed to have 1000 px, and the mean error of the matches ``better`` with 400."""
    cameras = {
        f: pycolmap.Camera.create_from_model_name(0, "SIMPLE_PINHOLE", f, 640, 480)
        for f in (1000.0, 400.0)
    }
    guess = QueryCamera(camera=cameras[1000.0], source="pointmap", focal_log_std=0.15)

    def calibrated(
        pixels0: Any, pixels1: Any, camera0: pycolmap.Camera, camera1: pycolmap.Camera, options: Any
    ) -> Estimate:
        cost = matches * (0.1 if camera0.mean_focal_length() == 1000 else 0.1 * better)
        return Estimate(
            camera0=camera0,
            camera1=camera1,
            rotation=np.eye(3),
            translation=np.array([1.0, 0, 0]),
            cost=cost,
            inlier_mask=np.ones(matches, bool),
            limit_px=1.0,
        )

    def candidates(*arguments: Any) -> list[tuple[pycolmap.Camera, pycolmap.Camera]]:
        return [(cameras[400.0], cameras[400.0])]

    monkeypatch.setattr(essential, "_calibrated", calibrated)
    monkeypatch.setattr(essential, "_camera_candidates", candidates)
    pixels = np.zeros((matches, 2))
    found = best_estimate(pixels, pixels, guess, guess, RelativeOptions())
    assert found is not None and found.camera0.mean_focal_length() == chosen_px
