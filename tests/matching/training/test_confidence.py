import copy
from dataclasses import replace

import pytest
import torch

from matching.network import EVERYTHING
from matching.network.small import SmallNetwork
from matching.training.batch import PairBatch
from matching.training.confidence import ConfidenceOptions, _cells, fit_confidence
from matching.training.losses import pointmap_errors
from tests.matching.training.planes import TINY, plane_pairs

OPTIONS = ConfidenceOptions(
    batches=6,
    image_sizes=((64, 48), (48, 32)),
    pairs=2,
    cells_per_batch=200,
    steps=300,
    cells_per_step=256,
    difficulty=(0.5, 1.0),
)


@pytest.fixture(scope="module")
def network() -> SmallNetwork:
    torch.manual_seed(0)
    return SmallNetwork(TINY.config()).eval()


def test_only_confidences_change_and_their_loss_falls(network: SmallNetwork) -> None:
    fitted = copy.deepcopy(network)
    with torch.no_grad():
        fitted.head.points.bias[3::4] = -12.0  # where a training with a small alpha leaves them
    # untrained points are off by more than their scale: confidence has to pay for that, too
    before, after = fit_confidence(fitted, plane_pairs, replace(OPTIONS, alpha=4.0))
    assert after < before - 0.5
    images = plane_pairs(7, pairs=1, image_size=(48, 32)).images[0] * 2 - 1
    with torch.no_grad():
        old, new = (
            net.decode(*(net.encode(images[k : k + 1]) for k in (0, 1)), EVERYTHING, EVERYTHING)
            for net in (network, fitted)
        )
    for view in (0, 1):
        for name in ("pointmap", "descriptors", "descriptor_confidence"):
            assert torch.equal(getattr(old[view], name), getattr(new[view], name)), name
        assert not torch.equal(old[view].confidence, new[view].confidence)
        assert new[view].confidence.min() >= 1


def test_without_features_it_finds_the_minimum_by_hand(network: SmallNetwork) -> None:
    blind = copy.deepcopy(network)
    blind.head.points.register_forward_pre_hook(lambda _, inputs: (torch.zeros_like(inputs[0]),))
    with torch.no_grad():  # every pixel one metre ahead, whatever it shows
        blind.head.points.bias.view(4, 4, 4)[..., :3] = torch.tensor([0.0, 0.0, 0.7])
    fit_confidence(blind, plane_pairs, replace(OPTIONS, alpha=2.0))
    errors = []
    for number in range(OPTIONS.batches):
        size = OPTIONS.image_sizes[number % 4 > 0]
        batch = plane_pairs(OPTIONS.seed + number, pairs=2, image_size=size, difficulty=0.75)
        points = batch.pointmaps
        ahead = torch.zeros_like(points[:, 0])
        ahead[..., 2] = 1
        valid = batch.valid
        errors += pointmap_errors(
            ahead, ahead, points[:, 0], points[:, 1], valid[:, 0], valid[:, 1]
        )
    mean = torch.cat([error.flatten() for error in errors]).mean()
    confidence = 1 + blind.head.points.bias[3::4].exp()
    # the poses of the second views and the draws of difficulties make some percent of difference
    assert float(confidence.detach().mean()) == pytest.approx(2.0 / float(mean), rel=0.15)


def test_confidences_follow_what_is_seen_where_it_is_seen(network: SmallNetwork) -> None:
    """A bright patch, elsewhere in each view, is where the points are wrong."""
    sizes = []

    def patched(
        seed: int, *, pairs: int, image_size: tuple[int, int], difficulty: float
    ) -> PairBatch:
        sizes.append(image_size)
        batch = plane_pairs(seed, pairs=pairs, image_size=image_size, difficulty=difficulty)
        images, points, valid = (x.clone() for x in (batch.images, batch.pointmaps, batch.valid))
        half_x, half_y = image_size[0] // 2, image_size[1] // 2
        images *= 0.3
        for view, rows, columns in (
            (0, slice(0, half_y), slice(0, half_x)),
            (1, slice(half_y, None), slice(half_x, None)),
        ):
            images[:, view, :, rows, columns] = 1.0
            points[:, view, rows, columns] *= 4
        points[:, :, :4], valid[:, :, :4] = 1e4, False  # what is not there does not count
        return replace(batch, images=images, pointmaps=points, valid=valid)

    options = replace(OPTIONS, alpha=4.0, batches=8)
    seeing, blind = copy.deepcopy(network), copy.deepcopy(network)
    blind.head.points.register_forward_pre_hook(lambda _, inputs: (torch.zeros_like(inputs[0]),))
    for net in (seeing, blind):
        with torch.no_grad():  # every pixel one metre ahead, whatever it shows
            net.head.points.weight.view(4, 4, 4, -1)[..., :3, :] = 0.0
            net.head.points.bias.view(4, 4, 4)[..., :3] = torch.tensor([0.0, 0.0, 0.7])
    _, informed = fit_confidence(seeing, patched, options)
    assert sizes == [options.image_sizes[number % 4 > 0] for number in range(8)]
    _, constant = fit_confidence(blind, patched, options)
    assert informed < constant - 0.3
    images = patched(99, pairs=2, image_size=(64, 48), difficulty=0.7).images * 2 - 1
    with torch.no_grad():
        encodings = [seeing.encode(images[:, view]) for view in (0, 1)]
        views = seeing.decode(*encodings, EVERYTHING, EVERYTHING)
    for view, wrong in zip(
        views, ((slice(6, 20), slice(4, 28)), (slice(28, 44), slice(36, 60))), strict=True
    ):
        assert view.confidence is not None
        inside = view.confidence[:, *wrong].median()
        right = view.confidence[:, 6:44, 4:60].median()
        assert float(inside) < 0.6 * float(right)


def test_cells_are_in_the_order_of_the_outputs(network: SmallNetwork) -> None:
    image = torch.arange(2 * 8 * 12).reshape(2, 8, 12)
    cells = _cells(image).reshape(2, 2, 3, 4, 4)
    assert torch.equal(cells[1, 1, 2], image[1, 4:8, 8:12])


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="alpha must be > 0"):
        ConfidenceOptions(alpha=0)
    with pytest.raises(ValueError, match="batches must be >= 1"):
        ConfidenceOptions(batches=0)
    with pytest.raises(ValueError, match="learning_rate must be > 0"):
        ConfidenceOptions(learning_rate=-1)
    with pytest.raises(ValueError, match="difficulty must rise"):
        ConfidenceOptions(difficulty=(0.9, 0.4))
    with pytest.raises(ValueError, match="image_sizes must be two"):
        ConfidenceOptions(image_sizes=((64, 48),))  # type: ignore[arg-type]
