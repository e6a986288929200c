import numpy as np
import pytest
import torch

from matching.descriptor_grid import (
    cells_to_pixels,
    pixels_to_cells,
    refine_positions,
    sample_bilinear,
)
from matching.errors import InputError
from matching.mast3r import Mast3rMatcher
from matching.network import NetworkConfig, Want, build_network
from matching.network.small import SmallNetwork, _spread, small_config
from matching.pair_decoding import SURE
from matching.training.options import NetworkOptions


@pytest.fixture(scope="module")
def tiny() -> SmallNetwork:
    """The small network with thin and few blocks, so that tests are quick."""
    torch.manual_seed(0)
    options = NetworkOptions(
        encoder_width=32,
        encoder_depth=2,
        encoder_heads=2,
        decoder_width=32,
        decoder_depth=2,
        decoder_heads=1,
    )
    return SmallNetwork(options.config()).eval()


def images(count: int, width: int, height: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, height, width, generator=generator) * 2 - 1


def test_bundled_size_keeps_its_promise() -> None:
    with torch.device("meta"):
        network = build_network(small_config())
    assert isinstance(network, SmallNetwork)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert parameters <= 16e6
    assert 2 * parameters <= 32e6  # bytes of a float16 file


@torch.no_grad()
def test_shapes_of_views_of_different_size(tiny: SmallNetwork) -> None:
    wide, tall = images(1, 96, 32), images(1, 48, 80, seed=1)
    view0, view1 = tiny.decode(tiny.encode(wide), tiny.encode(tall))
    for view, (width, height) in ((view0, (96, 32)), (view1, (48, 80))):
        assert view.pointmap is not None and view.confidence is not None
        assert view.descriptors is not None and view.descriptor_confidence is not None
        assert view.pointmap.shape == (1, height, width, 3)
        assert view.confidence.shape == (1, height, width)
        assert view.descriptors.shape == (1, height // 2, width // 2, 24)
        assert view.descriptor_confidence.shape == (1, height // 2, width // 2)
        assert float(view.confidence.min()) > 1 and float(view.descriptor_confidence.min()) > 0
        norms = view.descriptors.norm(dim=-1)
        torch.testing.assert_close(norms, torch.ones_like(norms))


@torch.no_grad()
def test_one_batch_of_both_views_equals_separate_views(tiny: SmallNetwork) -> None:
    first, second = images(2, 64, 48), images(2, 64, 48, seed=1)
    together = tiny.decode(tiny.encode(first), tiny.encode(second))
    one, other = tiny.encode(first[:1]), tiny.encode(second[:1])
    other_size = tiny.encode(images(1, 48, 48))
    assert other_size.image_size != one.image_size
    alone = tiny.decode(one, other)
    for batched, single in zip(together, alone, strict=True):
        assert batched.descriptors is not None and single.descriptors is not None
        # sums run in another order in another batch size
        torch.testing.assert_close(batched.descriptors[:1], single.descriptors, atol=1e-4, rtol=0)
    # the same blocks on the path of different sizes: forced by telling a different size
    x0, x1 = one.tokens, other.tokens
    rope = tiny._rope(one, 32)
    embedded = [
        tiny.decoder_embed(x) + embed for x, embed in zip((x0, x1), tiny.view_embed, strict=True)
    ]
    apart0, apart1 = embedded
    stacked = torch.cat(embedded)
    for block in tiny.dec_blocks:
        apart0, apart1 = block(apart0, apart1, rope, rope), block(apart1, apart0, rope, rope)
        stacked = block(stacked, stacked.roll(1, 0), rope, rope)
    torch.testing.assert_close(stacked, torch.cat([apart0, apart1]), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_only_what_is_wanted(tiny: SmallNetwork) -> None:
    encodings = tiny.encode(images(1, 64, 48)), tiny.encode(images(1, 64, 48, seed=1))
    everything, _ = tiny.decode(*encodings)
    view0, view1 = tiny.decode(*encodings, Want(descriptors=True), Want())
    assert view0.pointmap is None and view1.descriptors is None
    assert view0.descriptors is not None and everything.descriptors is not None
    torch.testing.assert_close(view0.descriptors, everything.descriptors)


@torch.no_grad()
def test_descriptors_at_pixels_are_read_between_the_cells(tiny: SmallNetwork) -> None:
    encodings = tiny.encode(images(1, 64, 48)), tiny.encode(images(1, 64, 48, seed=1))
    dense, _ = tiny.decode(*encodings, Want(descriptors=True), Want())
    pixels = torch.tensor([[[0, 0], [10, 7], [63, 47], [31, 20]]])
    at_pixels, _ = tiny.decode(*encodings, Want(descriptors=True, pixels=pixels), Want())
    assert at_pixels.descriptors is not None and dense.descriptors is not None
    assert at_pixels.descriptors.shape == (1, 4, 24)
    # the corner pixel lies outside all cell centres and takes the corner cell's descriptor
    torch.testing.assert_close(at_pixels.descriptors[0, 0], dense.descriptors[0, 0, 0])
    torch.testing.assert_close(at_pixels.descriptors[0, 2], dense.descriptors[0, -1, -1])


@torch.no_grad()
def test_exposure_and_contrast_hardly_matter(tiny: SmallNetwork) -> None:
    image = images(1, 64, 48)
    tokens = tiny.encode(image).tokens
    darker = tiny.encode(image * 0.7 - 0.2).tokens
    other = tiny.encode(images(1, 64, 48, seed=5)).tokens
    assert float((tokens - darker).norm()) < 0.2 * float((tokens - other).norm())


@torch.no_grad()
def test_black_image_gives_finite_numbers(tiny: SmallNetwork) -> None:
    black = tiny.encode(torch.full((1, 3, 48, 64), -1.0))
    view0, view1 = tiny.decode(black, black)
    for view in (view0, view1):
        for value in vars(view).values():
            assert torch.isfinite(value).all()


def test_sides_must_be_multiples_of_the_patch(tiny: SmallNetwork) -> None:
    with pytest.raises(ValueError, match="multiples of 16"):
        tiny.encode(images(1, 60, 48))
    with pytest.raises(InputError, match="GroundlocSmall"):
        SmallNetwork(NetworkConfig(architecture="AsymmetricMASt3R"))


@torch.no_grad()
def test_half_precision_keeps_the_last_layers(tiny: SmallNetwork) -> None:
    options = NetworkOptions(
        encoder_width=32,
        encoder_depth=2,
        encoder_heads=2,
        decoder_width=32,
        decoder_depth=2,
        decoder_heads=1,
    )
    network = SmallNetwork(options.config()).eval()
    network.load_state_dict(tiny.state_dict())
    network.set_precision(torch.bfloat16)
    assert network.head.descriptors.weight.dtype == torch.float32
    pair = images(1, 64, 48), images(1, 64, 48, seed=1)
    low, _ = network.decode(*(network.encode(image) for image in pair))
    high, _ = tiny.decode(*(tiny.encode(image) for image in pair))
    assert low.descriptors is not None and high.descriptors is not None
    cosine = (low.descriptors * high.descriptors).sum(-1)
    assert float(cosine.mean()) > 0.99


@torch.no_grad()
def test_global_descriptor_is_a_unit_vector_that_ignores_the_order_of_tokens(
    tiny: SmallNetwork,
) -> None:
    tokens = tiny.encode(images(2, 64, 48)).tokens
    pooled = tiny.global_descriptors(tokens)
    torch.testing.assert_close(pooled.norm(dim=-1), torch.ones(2))
    torch.testing.assert_close(tiny.global_descriptors(tokens.flip(1)), pooled)


@pytest.mark.parametrize("factor", [2, 4])
def test_spreading_cells_is_a_pixel_shuffle(factor: int) -> None:
    x = torch.randn(2, 3, 5, factor * factor * 7)
    spread = _spread(x, factor)
    assert spread.shape == (2, 3 * factor, 5 * factor, 7) and spread.is_contiguous()
    # torch's own has the place inside the cell innermost in its channels
    inner = x.unflatten(-1, (factor * factor, 7)).transpose(-1, -2).flatten(3)
    expected = torch.nn.functional.pixel_shuffle(inner.permute(0, 3, 1, 2), factor)
    torch.testing.assert_close(spread, expected.permute(0, 2, 3, 1))


def test_bilinear_reading() -> None:
    grid = torch.arange(12.0).view(1, 3, 4, 1)  # value = 4 y + x
    places = torch.tensor([[[0.0, 0.0], [1.5, 0.25], [3.0, 2.0], [-5.0, 1.0], [9.0, 9.0]]])
    expected = torch.tensor([0.0, 2.5, 11.0, 4.0, 11.0])
    torch.testing.assert_close(sample_bilinear(grid, places)[0, :, 0], expected)
    one = torch.ones(1, 1, 1, 2)
    torch.testing.assert_close(sample_bilinear(one, places), torch.ones(1, 5, 2))
    assert sample_bilinear(grid, places[:, :0]).shape == (1, 0, 1)


def test_cells_and_pixels() -> None:
    cells = torch.tensor([[0, 0], [3, 5]])
    torch.testing.assert_close(cells_to_pixels(cells, 2), torch.tensor([[1.0, 1.0], [7.0, 11.0]]))
    torch.testing.assert_close(pixels_to_cells(cells_to_pixels(cells, 2), 2), cells.float())


def test_refined_positions_find_the_place_between_cells() -> None:
    y, x = np.mgrid[0:12, 0:16]

    def describe(x: np.ndarray, y: np.ndarray) -> torch.Tensor:
        angles = np.stack([np.cos(x / 3), np.sin(x / 3), np.cos(y / 3), np.sin(y / 3)], -1)
        return torch.from_numpy(angles / np.sqrt(2)).float()

    true = np.array([[5.3, 6.0], [9.0, 4.75], [7.5, 3.5]])
    found = refine_positions(
        describe(true[:, 0], true[:, 1]),
        describe(x, y),
        torch.from_numpy(true.round().astype(np.int64)),
        temperature=0.01,
    )
    # the softmax's expectation is biased toward the window's centre; far below half a cell
    assert float((found - torch.from_numpy(true)).norm(dim=-1).max()) < 0.2
    corner = refine_positions(
        describe(np.zeros(1), np.zeros(1)), describe(x, y), torch.zeros(1, 2, dtype=torch.int64)
    )
    assert torch.isfinite(corner).all() and float(corner.min()) >= 0
    nothing = refine_positions(
        torch.zeros(0, 4), describe(x, y), torch.zeros(0, 2, dtype=torch.int64)
    )
    assert nothing.shape == (0, 2)


def test_odds_below_one_are_matches_too(tiny: SmallNetwork) -> None:
    # MASt3R's confidences are trained to another scale: its threshold of 1.001 would drop nearly
    # every match of a network whose confidence is the odds of being right
    network = build_network(tiny.config)
    network.load_state_dict(tiny.state_dict())
    matcher = Mast3rMatcher(network, name="tiny", fingerprint="0" * 64)
    assert matcher.min_confidence == 0 and matcher.sure_score == SURE
    photo = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    assert len(matcher.match(photo, photo)) > 0
