"""What the golden checks call: one function for each option of ``check_golden.py``.

python ../shared/golden/check_golden.py --impl tests.golden_adapter:impl --keys ...
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from matching.focal import focal_from_pointmap
from matching.images import read_image
from matching.network import NetworkConfig, PairNetwork
from matching.preprocess import (
    NetworkFrame,
    fit_to_patches,
    fit_to_trained_size,
    to_network_tensor,
)
from matching.training import losses as training_losses

_cached: tuple[dict[str, Tensor], PairNetwork] | None = None


def network_config(config: Mapping[str, Any]) -> NetworkConfig:
    arguments = {name: value for name, value in config.items() if name != "class"}
    return NetworkConfig.from_arguments(config["class"], arguments)


def _network(config: NetworkConfig, state: dict[str, Tensor]) -> PairNetwork:
    """The network of a checkpoint; the same weights serve all cases of one model."""
    global _cached
    if _cached is None or _cached[0] is not state:
        _cached = None  # frees the old weights before the new ones are used
        with torch.device("meta"):
            network = PairNetwork(config)
        network.load_state_dict(state, strict=False, assign=True)
        _cached = (state, network.eval())
    network = _cached[1]
    for module in network.modules():
        if hasattr(module, "config"):
            module.config = config
    return network


def small_network(state: dict[str, Tensor]) -> PairNetwork:
    """The small golden model for upright images, with weights of its own."""
    text = (Path(__file__).parent / "data" / "golden_network.json").read_text(encoding="utf-8")
    values = json.loads(text)["configs"]["mast3r_small"]
    config = network_config(revived(values))
    with torch.device("meta"):
        network = PairNetwork(config.for_inference())
    network.load_state_dict({n: t.clone() for n, t in state.items()}, assign=True)
    return network.eval().requires_grad_(False)


def revived(value: Any) -> Any:
    """JSON has no infinities: texts stand for them."""
    if isinstance(value, dict):
        return {key: revived(item) for key, item in value.items()}
    if isinstance(value, list):
        return [revived(item) for item in value]
    return float(value) if value in ("inf", "-inf") else value


def keys(config: Mapping[str, Any]) -> Iterable[tuple[str, tuple[int, ...]]]:
    with torch.device("meta"):
        state = PairNetwork(network_config(config)).state_dict()
    return [(name, tuple(tensor.shape)) for name, tensor in state.items()]


def impl(
    config: Mapping[str, Any],
    state: dict[str, Tensor],
    img1: Tensor,
    img2: Tensor,
    true_shape1: Tensor,
    true_shape2: Tensor,
) -> dict[str, Tensor]:
    network = _network(network_config(config), state)
    encodings = network.encode(img1, true_shape1), network.encode(img2, true_shape2)
    out = {}
    for view, (encoding, prediction) in enumerate(
        zip(encodings, network.decode(*encodings), strict=True), 1
    ):
        out[f"feat{view}"] = encoding.tokens
        out[f"pts3d_{view}"] = prediction.pointmap
        out[f"conf_{view}"] = prediction.confidence
        if prediction.descriptors is not None:
            out[f"desc_{view}"] = prediction.descriptors
            out[f"desc_conf_{view}"] = prediction.descriptor_confidence
    return out


def load_images(
    path: str, size: int, patch_size: int, square_ok: bool
) -> tuple[Tensor, tuple[int, int]]:
    fitted = fit_to_patches(read_image(path), size, patch_size=patch_size, square_ok=square_ok)
    assert fitted is not None
    image, frame = fitted
    return to_network_tensor(image), frame.image_size[::-1]


def visloc_resize(
    img: NDArray[np.float32], maxdim: int, antialias: bool
) -> tuple[Tensor, NDArray[np.float64], NDArray[np.float64]]:
    resized, frame = fit_to_trained_size(torch.from_numpy(img), maxdim, antialias=antialias)
    to_rescaled = frame.camera_matrix(np.eye(3))
    return resized, to_rescaled, np.linalg.inv(to_rescaled)


def rescale_points(
    pts2d: NDArray[np.float64],
    pts3d: NDArray[np.float32],
    to_rescaled: NDArray[np.float64],
    height: int,
    width: int,
) -> tuple[Any, Any, Any, Any]:
    to_orig = np.linalg.inv(to_rescaled)
    frame = NetworkFrame(
        image_size=(width, height),
        scale=(to_orig[0, 0], to_orig[1, 1]),
        offset=(to_orig[0, 2], to_orig[1, 2]),
    )
    pixels, inside = frame.nearest_pixels(pts2d + 0.5)
    kept = pixels[inside]
    pointmap = np.full((height, width, 3), np.nan, np.float32)
    pointmap[kept[:, 1], kept[:, 0]] = pts3d[inside]
    return frame.to_network(pts2d + 0.5), kept, pointmap, np.isfinite(pointmap).all(-1)


def focal(pts3d: Tensor, pp: Tensor, mode: Any, min_focal: float, max_focal: float) -> Tensor:
    return focal_from_pointmap(pts3d, pp, mode=mode, min_focal=min_focal, max_focal=max_focal)


def fast_nn(
    desc1: Tensor,
    desc2: Tensor,
    subsample: int | None,
    seeds: tuple[NDArray[np.int64], NDArray[np.int64]] | None,
    pixel_tol: float,
) -> tuple[Tensor, Tensor]:
    """The published order of the results: no duplicates, sorted by the pixel of map 1."""
    from matching.reciprocal import iterated_matches, seeded_matches

    if subsample is not None:
        return iterated_matches(desc1, desc2, step=subsample)
    assert seeds is not None
    xy1 = torch.from_numpy(np.stack(seeds, 1))
    (found,) = seeded_matches([desc1], [desc2], [xy1], pixel_tol=pixel_tol)
    rows = (xy1[:, 1] * desc1.shape[1] + xy1[:, 0]).numpy()
    order = torch.from_numpy(np.unique(rows, return_index=True)[1])
    order = order[found.kept.cpu()[order]]
    return xy1[order], found.xy1.cpu()[order]


def brute_nn(desc1: Tensor, desc2: Tensor) -> tuple[Tensor, Tensor]:
    from matching.reciprocal import nearest_neighbours

    found = nearest_neighbours(desc1, desc2)
    return found.index01, found.index10


def c2f(
    hw_map: tuple[int, int],
    hw_query: tuple[int, int],
    p_map: NDArray[np.float64],
    p_query: NDArray[np.float64],
    res_map: tuple[int, int],
    res_query: tuple[int, int],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    from matching.coarse_to_fine import choose_windows

    windows = choose_windows(
        image_size0=hw_map[::-1],
        image_size1=hw_query[::-1],
        keypoints0=p_map + 0.5,
        keypoints1=p_query + 0.5,
        network_size0=res_map[::-1],
        network_size1=res_query[::-1],
    )
    return windows.boxes0, windows.boxes1


def losses(
    name: str,
    gt1: Mapping[str, Tensor],
    gt2: Mapping[str, Tensor],
    pred1: Mapping[str, Tensor],
    pred2: Mapping[str, Tensor],
) -> float:
    """A published training loss of a batch, named as in golden_losses."""
    valid = gt1["valid_mask"], gt2["valid_mask"]
    camera0_from_world = torch.linalg.inv(gt1["camera_pose"].double())
    target0, target1 = (
        (
            gt["pts3d"].double() @ camera0_from_world[:, None, :3, :3].mT
            + camera0_from_world[:, None, None, :3, 3]
        ).float()
        for gt in (gt1, gt2)
    )

    def regression(*, metric: bool, sky: bool) -> Tensor:
        errors = training_losses.pointmap_errors(
            *(pred1["pts3d"], pred2["pts3d_in_other_view"], target0, target1, *valid),
            is_metric=gt1["is_metric_scale"] if metric else None,
        )
        first, second = (
            training_losses.confidence_weighted_loss(
                error, pred["conf"], mask, sky=gt["sky_mask"] if sky else None
            )
            for error, pred, mask, gt in zip(errors, (pred1, pred2), valid, (gt1, gt2), strict=True)
        )
        return first + second

    items = torch.arange(len(target0))[:, None]

    def at_corres(values: Tensor, gt: Mapping[str, Tensor]) -> Tensor:
        x, y = gt["corres"].unbind(-1)
        return values[items, y, x]

    real = gt1["valid_corres"]
    descriptors = at_corres(pred1["desc"], gt1), at_corres(pred2["desc"], gt2)
    confidences = at_corres(pred1["desc_conf"], gt1), at_corres(pred2["desc_conf"], gt2)
    if name == "conf_regr3d_metric":
        return float(regression(metric=True, sky=True))
    if name == "conf_regr3d_all_normalised":
        return float(regression(metric=False, sky=True))
    if name == "conf_regr3d_dust3r":
        return float(regression(metric=False, sky=False))
    if name.startswith("matching_"):
        mode: Any = name.removeprefix("matching_")
        found = training_losses.info_nce(*descriptors, mode=mode)
        return float(training_losses.masked_mean(found, real))
    matching = training_losses.confident_matching_loss(
        training_losses.info_nce(*descriptors), *confidences, real
    )
    if name == "conf_matching":
        return float(matching)
    if name == "total":
        return float(regression(metric=True, sky=True) + 0.075 * matching)
    raise ValueError(f"unknown loss '{name}'")
