"""Tests of `mapping/photos.py` and of what `build_map` does with bad photos."""

from pathlib import Path

import numpy as np
import pycolmap
import pytest
from PIL import Image

from mapping import MapOptions, PairOptions, ReconstructionOptions, build_map
from mapping.photos import checked_name, find_photos, view_key
from matching import InputError
from matching.hloc_files import LocalFeatures, write_features, write_matches
from matching.hloc_matcher import HlocMatcher
from tests.mapping.conftest import Place
from tests.mapping.fakes import FakeMatcher


def test_bad_photos_are_listed_and_the_others_mapped(place: Place, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    place.world.write_photos(photos)
    good = (photos / "0001.png").read_bytes()
    (photos / "truncated.png").write_bytes(good[: len(good) // 2])
    (photos / "empty.jpg").touch()
    (photos / "text.jpg").write_text("no image")
    Image.new("RGB", (640, 480)).save(photos / "black.png")
    Image.new("RGB", (1, 1)).save(photos / "one.png")
    scene = build_map(
        photos,
        tmp_path / "map",
        FakeMatcher(place.world),
        options=MapOptions(reconstruction=ReconstructionOptions(camera_mode="per_image")),
        image_names=[*(p.name for p in photos.iterdir()), "gone.jpg"],
    )
    assert scene.image_names == sorted(place.names.values())
    reasons = scene.info.not_registered
    assert sorted(reasons) == [
        "black.png", "empty.jpg", "gone.jpg", "one.png", "text.jpg", "truncated.png"
    ]  # fmt: skip
    for name, reason in {
        "black.png": "no verified matches",
        "empty.jpg": "empty",
        "gone.jpg": "no file",
        "one.png": "no verified matches",
        "text.jpg": "no readable image",
        "truncated.png": "damaged",
    }.items():
        assert reason in reasons[name]
        assert "\n" not in reason
    assert {i.name: i.registered for i in scene.info.images}["black.png"] is False


def test_none_good_is_an_error(
    place: Place, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(3):
        (photos / f"{i}.jpg").write_text("no image")
    with pytest.raises(InputError, match=r"only 0 of 3 photos.*0\.jpg"):
        build_map(photos, tmp_path / "map", FakeMatcher(place.world))
    for i in range(3):
        Image.new("RGB", (64, 48)).save(photos / f"{i}.jpg")
    with pytest.raises(InputError, match="no two photos could be reconstructed"):
        build_map(photos, tmp_path / "map", FakeMatcher(place.world))
    assert "\n" not in capfd.readouterr().err  # COLMAP says nothing beside the error
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match="no photos"):
        build_map(tmp_path / "nothing", tmp_path / "map2", FakeMatcher(place.world))


def test_two_photos_are_enough(place: Place, tmp_path: Path) -> None:
    for posed in (False, True):
        scene = build_map(
            place.photos,
            tmp_path / f"map{posed}",
            FakeMatcher(place.world),
            image_names=["0003.png", "0005.png"],
            known_poses=place.world.model(place.names) if posed else None,
            cameras=None if posed else dict.fromkeys(place.names.values(), place.world.camera),
        )
        assert scene.image_names == ["0003.png", "0005.png"]
        assert scene.info.num_points3D > 200
        view = scene.load_view("0003.png")
        found = scene.retrieve(view, FakeMatcher(place.world), 10)
        assert [r.name for r in found] == ["0003.png", "0005.png"]


def test_separate_model_is_named(place: Place, tmp_path: Path) -> None:
    """Photos 1-5 and 6-8 with no pair between them."""
    names = sorted(place.names.values())
    pairs = [(a, b) for group in (names[:5], names[5:]) for a in group for b in group if a < b]
    (tmp_path / "pairs.txt").write_text("".join(f"{a} {b}\n" for a, b in pairs))
    scene = build_map(
        place.photos,
        tmp_path / "map",
        FakeMatcher(place.world),
        options=MapOptions(pairs=PairOptions(method="file", file=str(tmp_path / "pairs.txt"))),
        cameras=dict.fromkeys(names, place.world.camera),
    )
    assert scene.image_names == names[:5]
    assert list(scene.info.not_registered) == names[5:]
    assert "separate model of 3 photos" in scene.info.not_registered[names[5]]
    assert scene.info.focal_sources == {"given": 5}  # of the photos that are in the map
    assert "(focal lengths of the photos with a pose from: 5 given)" in scene.summary()


def test_photos_that_known_poses_lack_or_contradict(place: Place, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    place.world.write_photos(photos)
    Image.new("RGB", (320, 240), (2, 100, 100)).save(photos / "0002.png")
    model = place.world.model({n: f for n, f in place.names.items() if n != 7})
    scene = build_map(photos, tmp_path / "map", FakeMatcher(place.world), known_poses=model)
    assert scene.info.not_registered == {
        "0002.png": "it has 320x240 pixels, but its camera is for 640x480",
        "0007.png": "the known poses do not hold it",
    }
    other = place.world.model({n: f"other/{f}" for n, f in place.names.items()})
    with pytest.raises(InputError, match=r"no pose of any photo.*other/0001\.png.*0001\.png"):
        build_map(photos, tmp_path / "map2", FakeMatcher(place.world), known_poses=other)
    with pytest.raises(InputError, match="either"):
        build_map(
            photos, tmp_path / "map2", FakeMatcher(place.world), known_poses=model, cameras={}
        )


def test_wrong_known_poses(place: Place, tmp_path: Path) -> None:
    model = pycolmap.Reconstruction()
    model.add_camera_with_trivial_rig(place.world.camera)
    random = np.random.default_rng(0)
    for number, name in place.names.items():
        rotation = pycolmap.Rotation3d(random.normal(size=4))
        model.add_image_with_trivial_frame(
            pycolmap.Image(name=name, camera_id=1, image_id=number),
            pycolmap.Rigid3d(rotation, random.normal(size=3)),
        )
    with pytest.raises(InputError, match="known poses do not fit"):
        build_map(place.photos, tmp_path / "map", FakeMatcher(place.world), known_poses=model)


@pytest.mark.parametrize("name", ["../x.jpg", "/etc/x.jpg", "a/../../x.jpg", "", "."])
def test_names_outside_the_folder(name: str) -> None:
    with pytest.raises(InputError, match="leaves the photo folder"):
        checked_name(name)


def test_names(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("a/b.jpg", "c d.jpg", "line\nbreak.jpg"):
        (tmp_path / name).touch()
    bad = bytes(tmp_path / "x") + b"\xff.jpg"
    Path(bad.decode(errors="surrogateescape")).touch()
    found = find_photos(tmp_path)
    assert list(found.photos) == ["a/b.jpg", "c d.jpg"]
    assert sorted(found.bad) == ["line\\nbreak.jpg", "x\\udcff.jpg"]
    assert list(find_photos(tmp_path, ["./a//b.jpg"]).photos) == ["a/b.jpg"]
    with pytest.raises(InputError, match=r"'c d\.jpg' twice"):
        find_photos(tmp_path, ["c d.jpg", "./c d.jpg"])
    with pytest.raises(InputError, match="empty"):
        find_photos(tmp_path, [])


def test_known_poses_mean_the_stored_pixels(place: Place, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    place.world.write_photos(photos)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    for name in place.names.values():
        Image.open(photos / name).save(photos / name, exif=exif)
    model = place.world.model(place.names)
    scene = build_map(photos, tmp_path / "map", FakeMatcher(place.world), known_poses=model)
    assert scene.image_names == sorted(place.names.values())
    assert scene.info.options["apply_exif_orientation"] is False
    assert scene.load_view("0001.png").image_size == (640, 480)
    upright = MapOptions(apply_exif_orientation=True)
    with pytest.raises(InputError, match=r"480x640.*apply_exif_orientation"):
        build_map(
            photos, tmp_path / "up", FakeMatcher(place.world), known_poses=model, options=upright
        )


def test_photos_without_known_poses_are_turned_upright(place: Place, tmp_path: Path) -> None:
    scene = build_map(
        place.photos,
        tmp_path / "map",
        FakeMatcher(place.world),
        image_names=["0003.png", "0004.png", "0005.png"],
    )
    assert scene.info.options["apply_exif_orientation"] is True


def test_files_of_features_that_changed_give_other_encodings(tmp_path: Path) -> None:
    files, photo_file = (tmp_path / "feats.h5", tmp_path / "matches.h5"), tmp_path / "a.jpg"
    Image.new("RGB", (8, 6)).save(photo_file)
    photo = find_photos(tmp_path).photos["a.jpg"]
    keys = []
    for count in (2, 3):
        features = LocalFeatures(
            image_size=(8, 6),
            keypoints=np.ones((count, 2), np.float32),
            descriptors=np.ones((count, 4), np.float32),
        )
        write_features(files[0], iter([("a.jpg", features)]))
        write_matches(files[1], iter([]), {})
        for _ in range(2):  # loading alone changes nothing
            matcher = HlocMatcher(*files)
            keys.append(view_key(photo, matcher, apply_exif_orientation=False))
    assert keys[0] == keys[1] != keys[2] == keys[3]
