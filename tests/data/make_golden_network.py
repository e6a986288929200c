"""Vendors a part of the golden numbers of the networks as JSON, for tests without the full files.

python tests/data/make_golden_network.py ../shared/golden
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

OUT = Path(__file__).with_name("golden_network.json")
CASES = (
    *("native_odd_grid", "native_lp", "native_different_sizes", "native_desc_conf_exp0"),
    *("land_mixed_b4", "land_pl", "land_pp_b2"),
)
KEPT_PER_ARRAY = 60


def read(path: Path) -> tuple[dict[str, Any], Any]:
    arrays = np.load(path)
    return json.loads(bytes(arrays["meta"]).decode()), arrays


def numbers(values: Any) -> list[float]:
    """Short decimals that give the same float32 again."""
    return [float(np.format_float_scientific(v)) for v in np.asarray(values, np.float32)]


def manifest_hash(manifest: list[list[Any]]) -> str:
    lines = sorted(f"{name} {tuple(shape)}" for name, shape, _ in manifest)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def main(golden: Path) -> None:
    configs = json.loads((golden / "configs.json").read_text())
    meta, arrays = read(golden / "golden_mast3r_small.npz")
    cases = []
    for case in meta["cases"]:
        if case["name"] not in CASES:
            continue
        outputs = {}
        for key, spec in case["keys"].items():
            if not spec["required"]:
                continue
            reference = arrays[f"{case['name']}/{key}"].reshape(-1)
            step = max(1, len(reference) // KEPT_PER_ARRAY) | 1  # odd: all places in a patch
            outputs[key] = {
                "shape": spec["shape"],
                "sub": spec["sub"],
                "step": step,
                "values": numbers(reference[::step]),
                "scale": float(arrays[f"{case['name']}/{key}/stats"][2]),
            }
        inputs = {k: case[k] for k in case if k[-1] in "12"}
        cases.append(
            {"name": case["name"], "overrides": case["overrides"], **inputs, "outputs": outputs}
        )
    keys = {}
    for model in configs:
        manifest = json.loads((golden / f"manifest_{model}.json").read_text())
        keys[model] = {"number": len(manifest), "sha256": manifest_hash(manifest)}
    preprocess, pixels = read(golden / "golden_preprocess.npz")
    visloc = [
        {
            **entry,
            "to_orig": pixels[f"{entry['name']}/to_orig"].tolist(),
            "px_antialias": numbers(pixels[f"{entry['name']}/px_antialias"].reshape(-1)[::7]),
        }
        for entry in preprocess["visloc"]
    ]
    focal, focals = read(golden / "golden_focal.npz")
    for entry in focal["focal"]:
        for mode in ("median", "weiszfeld"):
            entry[mode] = numbers(focals[f"{entry['name']}/{mode}"])
    content = {
        "configs": configs,
        "keys": keys,
        "weights_crc32": meta["weights_crc32"],
        "mast3r_small": cases,
        "load_images": preprocess["load_images"],
        "visloc": visloc,
        "focal": focal["focal"],
    }
    OUT.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")
    print(f"{OUT.name}: {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
