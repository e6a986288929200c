"""Photos of a rendered place to a model, a cloud and depth maps, with an oracle for the network."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pycolmap
import pytest
from PIL import Image

from mapping.alignment_start import fit_similarity
from mapping.depth_fusion import FusionOptions
from mapping.global_alignment import AlignmentOptions
from mapping.options import PairOptions
from mapping.reconstruct_photos import ReconstructOptions, reconstruct_photos
from matching import load_matcher
from matching.errors import InputError
from tests.mapping.clouds import read_ply
from tests.rendered_views import Faults, OracleMatcher, RenderedView, render_views

QUICK = AlignmentOptions(num_iterations=40)


@pytest.fixture(scope="module")
def views() -> list[RenderedView]:
    return render_views([2, 4, 6, 8], 120)


@pytest.fixture
def photos(views: list[RenderedView], tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for number, view in enumerate(views):
        Image.fromarray(view.image).save(folder / f"{'sub/' * (number == 3)}{number}.png")
    return folder


def run(
    photos: Path, views: list[RenderedView], faults: Faults, **settings: Any
) -> tuple[Any, pycolmap.Reconstruction]:
    options = ReconstructOptions(**{"alignment": QUICK, **settings})
    out = photos.parent / "out"
    made = reconstruct_photos(
        photos, out, OracleMatcher(views, faults), options=options, overwrite=True
    )
    return made, pycolmap.Reconstruction(out / "sparse")


def to_truth(model: pycolmap.Reconstruction, views: list[RenderedView]) -> Any:
    """The similarity from the model to the truth, and how far the centres are off, metres."""
    images = sorted(model.images.values(), key=lambda image: Path(image.name).name)
    rows = [int(Path(image.name).stem) for image in images]
    centres = np.array([image.projection_center() for image in images])
    true = np.array([np.linalg.inv(views[row].cam_from_world)[:3, 3] for row in rows])
    similarity = fit_similarity(centres, true, np.ones(len(rows)))
    return similarity, np.linalg.norm(similarity(centres) - true, axis=1).max()


def surface_distance(points: np.ndarray, views: list[RenderedView]) -> np.ndarray:
    """Relative difference of each world point's depth from what a photo sees there, the least."""
    best = np.full(len(points), np.inf)
    for view in views:
        local = points @ view.cam_from_world[:3, :3].T + view.cam_from_world[:3, 3]
        with np.errstate(divide="ignore", invalid="ignore"):
            pixels = (local @ view.K.T)[:, :2] / local[:, 2:]
        inside = (local[:, 2] > 0) & (pixels > 0).all(1) & (pixels < view.image_size).all(1)
        x, y = pixels[inside].astype(int).T
        depth = view.depth[y, x]
        difference = np.where(depth > 0, np.abs(local[inside, 2] / np.maximum(depth, 1e-9) - 1), 9)
        best[inside] = np.minimum(best[inside], difference)
    return best


def test_exact_point_maps_give_model_cloud_and_depths(
    photos: Path, views: list[RenderedView]
) -> None:
    made, model = run(photos, views, Faults())
    assert made.num_images == 4 and not made.not_registered and made.metric
    assert model.num_reg_images() == 4
    similarity, off = to_truth(model, views)
    assert off < 0.05
    assert similarity.scale == pytest.approx(1, abs=0.02)  # metres
    for image in model.images.values():
        view = views[int(Path(image.name).stem)]
        camera = model.camera(image.camera_id)
        assert camera.mean_focal_length() == pytest.approx(view.K[0, 0], rel=0.02)
    # the model's points have tracks that reproject
    assert model.num_points3D() > 1000
    assert model.compute_mean_track_length() > 2
    assert model.compute_mean_reprojection_error() < 1
    cloud = read_ply(photos.parent / "out" / "points.ply")
    assert len(cloud) == made.num_points > 2000
    points = similarity(np.column_stack([cloud["x"], cloud["y"], cloud["z"]]))
    assert np.median(surface_distance(points, views)) < 0.01
    assert np.std(cloud["red"]) > 5  # colours of the photos
    normals = np.column_stack([cloud["nx"], cloud["ny"], cloud["nz"]])
    assert np.median(np.linalg.norm(normals, axis=1)) == pytest.approx(1, abs=1e-5)
    with h5py.File(photos.parent / "out" / "depth.h5") as file:
        depth = file["0.png/depth"][()]
        assert "sub/3.png" in file
    known = views[0].depth > 0
    ratio = similarity.scale * depth[known] / views[0].depth[known]
    assert np.median(np.abs(ratio - 1)) < 0.02
    assert made.to_dict()["num_points"] == made.num_points
    assert "4 with a pose, 0 without" in made.summary()
    assert "matches of 0 of 6 pairs contradict" in made.summary()
    assert "focal lengths from: 4 pointmap" in made.summary()
    assert len(made.to_dict()["check"]["errors"]) == 6
    assert not (photos.parent / ".out.work").exists()


def test_noise_is_averaged_and_contradictions_left_out(
    photos: Path, views: list[RenderedView]
) -> None:
    faults = Faults(noise=0.03, scales=0.2)
    made, model = run(photos, views, faults, alignment=AlignmentOptions(num_iterations=100))
    assert to_truth(model, views)[1] < 0.3
    assert 0 < made.error < 0.1
    strict = run(photos, views, faults, fusion=FusionOptions(min_consistent=2))[0]
    loose = run(photos, views, faults, fusion=FusionOptions(min_consistent=0))[0]
    assert strict.num_points < made.num_points < loose.num_points


def test_given_cameras_stay(photos: Path, views: list[RenderedView]) -> None:
    out = photos.parent / "out"
    made = reconstruct_photos(
        photos,
        out,
        OracleMatcher(views, Faults(noise=0.02)),
        options=ReconstructOptions(alignment=QUICK),
        cameras={"0.png": views[0].camera},
    )
    model = pycolmap.Reconstruction(out / "sparse")
    cameras = {image.name: model.camera(image.camera_id) for image in model.images.values()}
    assert cameras["0.png"].model_name == "PINHOLE"
    assert cameras["0.png"].params.tolist() == views[0].camera.params.tolist()
    assert cameras["1.png"].model_name == "SIMPLE_PINHOLE"
    assert made.camera_sources["0.png"] == "given"
    assert made.camera_sources["1.png"] == "pointmap"
    with pytest.raises(InputError, match=r"'0\.png' is 160x120 but the photo is 120x90"):
        reconstruct_photos(
            photos,
            photos.parent / "other",
            OracleMatcher(views),
            cameras={"0.png": render_views([2], 160)[0].camera},
        )
    with pytest.raises(InputError, match=r"none of the photos .* which names 'a\.png' first"):
        other = photos.parent / "other"
        reconstruct_photos(photos, other, OracleMatcher(views), cameras={"a.png": views[0].camera})


@pytest.mark.parametrize("method", ["sequential", "retrieval", "file"])
def test_pairs_of_a_graph(photos: Path, views: list[RenderedView], method: Any) -> None:
    listed = photos.parent / "pairs.txt"
    listed.write_text("0.png 1.png\n1.png 2.png\n")
    pairs = PairOptions(
        method=method, window=1, top_k=2, file=str(listed) if method == "file" else None
    )
    made, model = run(photos, views, Faults(), pairs=pairs)
    if method == "file":
        assert made.num_pairs == 2
        assert set(made.not_registered) == {"sub/3.png"}
        assert "shares with the other photos" in made.not_registered["sub/3.png"]
    else:
        assert 3 <= made.num_pairs < 6
        assert model.num_reg_images() == 4
    assert to_truth(model, views)[1] < 0.15


def test_a_pair_file_may_name_photos_that_cannot_be_read(
    photos: Path, views: list[RenderedView]
) -> None:
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    listed = photos.parent / "pairs.txt"
    listed.write_text("0.png 1.png\n1.png broken.jpg\n")
    made, _ = run(photos, views, Faults(), pairs=PairOptions(method="file", file=str(listed)))
    assert made.num_pairs == 1 and made.num_images == 2
    assert set(made.not_registered) == {"2.png", "broken.jpg", "sub/3.png"}
    listed.write_text("1.png broken.jpg\n")
    with pytest.raises(InputError, match="no pair of usable photos"):
        run(photos, views, Faults(), pairs=PairOptions(method="file", file=str(listed)))
    listed.write_text("1.png gone.jpg\n")
    with pytest.raises(InputError, match=r"line 1: 'gone\.jpg'"):
        run(photos, views, Faults(), pairs=PairOptions(method="file", file=str(listed)))


def test_memory_limits_the_grid(photos: Path, views: list[RenderedView]) -> None:
    made, model = run(photos, views, Faults(), max_memory_mb=1, grid_step_px=1)
    assert made.num_images == 4
    assert to_truth(model, views)[1] < 0.1


def test_the_same_photos_give_the_same_bytes(photos: Path, views: list[RenderedView]) -> None:
    few = AlignmentOptions(num_iterations=8)  # all that is not repeatable shows from the first
    run(photos, views, Faults(noise=0.02), alignment=few)
    first = {
        f: (photos.parent / "out" / f).read_bytes() for f in ("points.ply", "sparse/images.bin")
    }
    run(photos, views, Faults(noise=0.02), alignment=few)
    for name, data in first.items():
        assert (photos.parent / "out" / name).read_bytes() == data


def test_bad_photos_are_listed(photos: Path, views: list[RenderedView]) -> None:
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    Image.fromarray(np.zeros((90, 120, 3), np.uint8)).save(photos / "black.png")
    made, _ = run(photos, views, Faults())
    assert set(made.not_registered) == {"broken.jpg", "black.png"}
    assert made.num_images == 4


@pytest.mark.parametrize("method", ["exhaustive", "retrieval"])
def test_blank_photos_only(
    views: list[RenderedView], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("0.png", "1.png"):
        Image.fromarray(np.zeros((90, 120, 3), np.uint8)).save(tmp_path / "photos" / name)
    matcher, options = OracleMatcher(views), ReconstructOptions(pairs=PairOptions(method=method))
    monkeypatch.setattr(matcher, "local_descriptors", lambda _: np.zeros((0, 8), np.float32))
    with pytest.raises(InputError, match=r"any texture in both, .*'0\.png' and '1\.png'") as told:
        reconstruct_photos(tmp_path / "photos", tmp_path / "out", matcher, options=options)
    assert "\n" not in str(told.value) and "matcher" not in str(told.value)
    assert not (tmp_path / "out").exists()
    assert list((tmp_path / ".out.work").iterdir())  # better photos may be added


def test_wrong_use_is_refused_before_the_work(photos: Path, views: list[RenderedView]) -> None:
    other = photos.parent / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="no reconstruction"):
        reconstruct_photos(photos, other, OracleMatcher(views))
    assert (other / "thesis.txt").read_text() == "precious"
    for nameless in (".", "..", photos / ".."):
        with pytest.raises(InputError, match="give the folder by its name"):
            reconstruct_photos(photos, nameless, OracleMatcher(views))
    sift = load_matcher("sift")
    sift.encode_many = None  # type: ignore[method-assign,assignment]
    with pytest.raises(InputError, match="predicts no point maps"):
        reconstruct_photos(photos, photos.parent / "new", sift)
    with pytest.raises(InputError, match=r"only 1 of 2 .* at least 2 \('gone\.png': there is no"):
        reconstruct_photos(
            photos, photos.parent / "new", OracleMatcher(views), image_names=["0.png", "gone.png"]
        )
    assert not (photos.parent / "new").exists()
    assert not list(photos.parent.glob(".*"))  # nor what was encoded for it


def test_poses_that_matches_contradict_are_refused(photos: Path, views: list[RenderedView]) -> None:
    """Point maps may fit each other and be wrong; centres are off by 2 m here."""
    poor = Faults(noise=0.3, scales=0.3)
    with pytest.raises(InputError, match=r"oracle are too poor .* of 6 pairs contradict"):
        run(photos, views, poor)
    assert not (photos.parent / "out").exists()
    assert not list(photos.parent.glob(".*"))  # nothing that nobody may ever ask for again
    made, model = run(photos, views, poor, max_contradicted=1.0)
    assert to_truth(model, views)[1] > 1
    assert made.check.num_contradicted > 3
    assert f"matches of {made.check.num_contradicted} of 6 pairs contradict" in made.summary()


def test_another_process_at_work_on_it_is_refused(
    photos: Path, views: list[RenderedView], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, matcher = photos.parent / "out", OracleMatcher(views)
    work = photos.parent / ".out.work"
    predict, told = matcher.predict, []

    def at_once(view0: Any, view1: Any) -> Any:  # locks belong to open files, not to processes
        with pytest.raises(
            InputError, match=r"another process .* on the reconstruction"
        ) as refused:
            reconstruct_photos(photos, out, OracleMatcher(views))
        told.append(refused.value)
        return predict(view0, view1)

    monkeypatch.setattr(matcher, "predict", at_once)
    reconstruct_photos(photos, out, matcher, options=ReconstructOptions(alignment=QUICK))
    assert told and not work.exists()
    with pytest.raises(InputError, match="holds a reconstruction: overwrite it"):
        reconstruct_photos(photos, out, matcher)
    assert not work.exists()


class KilledError(Exception):
    pass


OUT_OF_MEMORY = InputError("the memory of cuda does not do for a network image of 120 x 90")


@pytest.mark.parametrize("error", [KilledError(), OUT_OF_MEMORY])
def test_a_run_that_ends_early_keeps_its_encodings(
    photos: Path, views: list[RenderedView], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    class Counting(OracleMatcher):
        encoded = 0

        def encode_image(self, image: Any) -> Any:
            Counting.encoded += 1
            return super().encode_image(image)

    def fail(*_: Any) -> None:
        raise error

    matcher, out = Counting(views), photos.parent / "out"
    with monkeypatch.context() as patch, pytest.raises(type(error)):
        patch.setattr(matcher, "predict", fail)
        reconstruct_photos(photos, out, matcher)
    assert Counting.encoded == 4 and not out.exists()
    # nor does a mistake in between cost what is there
    other = photos.parent / "other photos"
    other.mkdir()
    (other / "0.png").write_bytes((photos / "0.png").read_bytes())
    with pytest.raises(InputError, match="only 1 of 1 photos"):
        reconstruct_photos(other, out, matcher)
    with pytest.raises(InputError, match="predicts no point maps"):
        reconstruct_photos(photos, out, load_matcher("sift"))
    Counting.encoded = 0
    reconstruct_photos(photos, out, matcher, options=ReconstructOptions(alignment=QUICK))
    assert Counting.encoded == 0
    assert not (photos.parent / ".out.work").exists()


def test_a_folder_that_cannot_be_written_is_told_before_the_work(
    photos: Path, views: list[RenderedView], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OracleMatcher, "encode_image", None)
    (photos.parent / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"cannot write into '.*file': it is a file"):
        reconstruct_photos(photos, photos.parent / "file" / "out", OracleMatcher(views))


@pytest.mark.parametrize(
    "values", [{"max_memory_mb": 0}, {"grid_step_px": 0}, {"max_contradicted": 1.5}]
)
def test_bad_options_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"at least 1|in \[0, 1\]"):
        ReconstructOptions(**values)  # type: ignore[arg-type]
