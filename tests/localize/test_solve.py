import numpy as np
import pycolmap
import pytest

from localize.groups import Candidate
from localize.lift import Correspondences
from localize.pnp import Pose
from localize.results import Localization
from localize.solve import Solved, simpler
from tests.localize.synthetic import make_camera


def solved(num_inliers: int, error_px: float = 1.0, *, success: bool = True) -> Solved:
    """A pose with inliers in as many cells of the grid that counts them."""
    camera = make_camera(size=(1600, 1600))
    row = np.arange(200)
    points2D = np.column_stack([row % 16, row // 16]) * 100.0 + 50.0
    mask = row < num_inliers
    candidate = Candidate(
        matches=Correspondences(
            points2D=points2D, points3D_ids=row, images=row, scores=np.ones(200, np.float32)
        ),
        points3D=np.zeros((200, 3)),
        pose=Pose(
            cam_from_world=pycolmap.Rigid3d(),
            camera=camera,
            errors_px=np.where(mask, error_px, 50.0),
            inlier_mask=mask,
        ),
        known_camera=True,
    )
    assert candidate.support == num_inliers
    result = Localization(
        name="q",
        success=success,
        reason="" if success else "hardly better than chance",
        cam_from_world=candidate.pose.cam_from_world if success else None,
    )
    return Solved(result=result, best=candidate)


@pytest.mark.parametrize(
    ("num_inliers", "error_px", "taken"),
    [(100, 1.0, True), (95, 1.09, True), (94, 1.0, False), (100, 1.11, False), (120, 0.5, True)],
)
def test_the_maps_camera_has_to_explain_nearly_as_much(
    num_inliers: int, error_px: float, taken: bool
) -> None:
    free, shared = solved(100), solved(num_inliers, error_px)
    assert simpler(free, shared) is (shared if taken else free)


def test_a_failure_with_the_maps_camera_is_not_taken() -> None:
    free, nothing = solved(100), Solved(result=solved(0, success=False).result)
    assert simpler(free, solved(120, success=False)) is free
    assert simpler(free, nothing) is free
    assert simpler(solved(100, success=False), shared := solved(100)) is shared
    assert simpler(nothing, shared) is shared
