"""The weights that come with the package."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from matching import bundled
from matching.bundled import BUNDLED, bundled_weights
from matching.errors import InputError
from matching.load import known_matchers, load_matcher
from matching.training.samples import project
from tests.matching.training.planes import plane_pairs


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the bundled model that may be damaged."""
    original = BUNDLED["small"]
    for suffix in (".safetensors", ".json"):
        shutil.copy(original.with_suffix(suffix), tmp_path)
    file = tmp_path / original.name
    monkeypatch.setattr(bundled, "BUNDLED", {"small": file})
    return file


def test_the_bundled_model_is_whole_and_has_its_card() -> None:
    file = bundled_weights("small")
    assert file.stat().st_size <= 32 * 2**20
    assert "small" in known_matchers()
    card = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    assert all((file.parents[2] / part["config"]).exists() for part in card["parts"])
    assert "no real image" in (file.parent / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_an_unharmed_copy_is_taken(copy: Path) -> None:
    assert bundled_weights("small") == copy


def test_changed_weights_are_refused(copy: Path) -> None:
    content = bytearray(copy.read_bytes())
    content[-1] ^= 1
    copy.write_bytes(content)
    with pytest.raises(InputError, match=r"small\.safetensors' is damaged"):
        load_matcher("small")


def test_half_an_installation_is_named(copy: Path) -> None:
    copy.unlink()
    with pytest.raises(InputError, match=r"small\.safetensors' is missing"):
        load_matcher("small")
    copy.with_suffix(".json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match=r"small\.json' is missing or damaged"):
        load_matcher("small")


def test_it_matches_what_it_never_saw_at_any_shape() -> None:
    """Textured planes, whatever the worlds of the training draw; real photos have a benchmark."""
    for width, height in ((224, 160), (128, 224), (256, 96)):
        matcher = load_matcher("small", options={"long_side_px": max(width, height)})
        for seed in range(3):
            batch = plane_pairs(seed, pairs=1, image_size=(width, height), difficulty=0.5)
            images = (batch.images[0].permute(0, 2, 3, 1) * 255).byte().numpy()
            matches = matcher.match_views(matcher.encode(images[0]), matcher.encode(images[1]))
            keypoints0, keypoints1 = (
                torch.from_numpy(k) - 0.5 for k in (matches.keypoints0, matches.keypoints1)
            )
            pixels = keypoints0.round().long().clamp_min(0)
            pixels = pixels.minimum(torch.tensor([width - 1, height - 1]))
            positions, visible = project(batch, 0, pixels[None])
            errors = (positions[0] + (keypoints0 - pixels) - keypoints1).norm(dim=-1)
            right = visible[0] & (errors < 2)
            assert len(right) > 200
            assert float(right.float().mean()) > 0.95
            assert float(right[:200].float().mean()) > 0.98  # the best come first


def test_free_matches_are_a_thousand_and_all_sure_ones() -> None:
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    photo = np.asarray(noise.resize((224, 168), Image.Resampling.BICUBIC))
    other = np.asarray(noise.rotate(25).resize((224, 168), Image.Resampling.BICUBIC))
    small: dict[str, Any] = {"grid_step_px": 2, "long_side_px": 224}
    everything = load_matcher("small", options={**small, "max_matches": 0})
    chosen = load_matcher("small", options=small)
    for second, easy in ((photo, True), (other, False)):
        views = everything.encode(photo), everything.encode(second)
        scores = everything.match_views(*views).scores
        assert len(scores) > 1000 and (np.diff(scores) <= 0).all() and scores[0] <= 1.0
        sure = int((scores > 0.3).sum())
        assert (sure > 1000) == easy
        np.testing.assert_array_equal(chosen.match_views(*views).scores, scores[: max(1000, sure)])
