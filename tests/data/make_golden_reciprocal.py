"""Keep what the tests need of the published matching's golden numbers.

python tests/data/make_golden_reciprocal.py ../shared/golden tests/data/golden_reciprocal.json

The inputs are formulas (`tests/matching/descriptor_fields.py`), so only the answers are kept:
pixel pairs of the small runs, checksums of the large ones, and the chosen windows.
"""

import json
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np

RUNS = ["sub8", "sub8_swapped", "sub3", "seeds_tol5", "seeds_tol0", "seeds_tol5_swapped", "chain"]


def checksum(values: Any) -> int:
    """crc32 of integers, whatever their type was."""
    return zlib.crc32(np.ascontiguousarray(values, np.int64).tobytes())


def main() -> None:
    golden, out = Path(sys.argv[1]), Path(sys.argv[2])
    matches = np.load(golden / "golden_reciprocal.npz")
    kept: dict[str, Any] = {"runs": {}, "dense": {}, "windows": []}
    settings = json.loads(bytes(matches["meta"]))
    for run in RUNS:
        name = f"fast/dot/{run}"
        pairs = np.concatenate([matches[f"{name}/xy1"], matches[f"{name}/xy2"]], 1)
        kept["runs"][run] = {
            **{k: v for k, v in settings["runs"][name].items() if k != "dist"},
            "count": len(pairs),
            "checksum": checksum(pairs),
            "first": pairs[:12].tolist(),
        }
    for name in ("nn_1to2", "nn_2to1", "reciprocal_idx1", "reciprocal_idx2"):
        values = matches[f"brute/dot/{name}"]
        kept["dense"][name] = {"count": len(values), "checksum": checksum(values)}
    windows = np.load(golden / "golden_c2f.npz")
    for case in json.loads(bytes(windows["meta"]))["cases"]:
        boxes = {
            key: windows[f"{case['name']}/{key}"].tolist() for key in ("cells_map", "cells_query")
        }
        kept["windows"].append({**case, **boxes})
    out.write_text(json.dumps(kept, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
