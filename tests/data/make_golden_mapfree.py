"""Make ``golden_mapfree.json`` from the golden outputs of the official Map-free script.

Usage: python tests/data/make_golden_mapfree.py ../shared/golden

The inputs are synthetic poses; the outputs were printed by the published scoring code. All complete
cases are taken over as text (the submissions' zip files are packed again by the tests), and of the
400 single pose pairs every fourth, with all edge cases.
"""

import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

PAIR_ARRAYS = ("q_gt_w2c", "t_gt_w2c", "q_est_w2c", "t_est_w2c", "K", "W", "H")
RESULTS = ("trans_err", "rot_err", "reproj_err")
STEP = 4


def golden_pairs(arrays: Any) -> dict[str, Any]:
    """Every fourth pose pair and the edge cases, as one table."""
    count = len(arrays["edge_trans_err"])
    table = {}
    for name in PAIR_ARRAYS + RESULTS:
        if name == "K":
            edge = np.broadcast_to(arrays["edge_K"], (count, 3, 3))
        elif name in ("W", "H"):
            edge = np.full(count, arrays["edge_WH"]["WH".index(name)])
        else:
            edge = arrays[f"edge_{name}"]
        table[name] = np.concatenate([arrays[name][::STEP], edge]).tolist()
    table["reproj_err"] = [None if np.isnan(e) else e for e in table["reproj_err"]]
    return table


def golden_case(folder: Path) -> dict[str, Any]:
    """The files of one complete case."""
    with zipfile.ZipFile(folder / "submission.zip") as archive:
        members = {name: archive.read(name).decode() for name in archive.namelist()}
    scenes = {}
    for scene in sorted((folder / "val").iterdir()):
        scenes[scene.name] = {p.name: p.read_bytes().decode() for p in sorted(scene.iterdir())}
    case: dict[str, Any] = {"submission": members, "val": scenes}
    for name in ("expected", "expected_frames"):
        file = folder / f"{name}.json"
        case[name] = json.loads(file.read_text()) if file.is_file() else None
    return case


def main(golden: Path) -> None:
    cases = {p.name: golden_case(p) for p in sorted(golden.glob("mapfree_case*"))}
    with np.load(golden / "golden_mapfree.npz") as arrays:
        document = {"pairs": golden_pairs(arrays), "cases": cases}
    out = Path(__file__).with_name("golden_mapfree.json")
    out.write_text(json.dumps(document, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
