"""Make ``golden_losses.json`` from the golden losses of the published code.

Usage: python tests/data/make_golden_losses.py ../shared/golden

Numbers only: the seed of the inputs, which tests/matching/training/test_losses.py draws by the same
formulas, and the losses that the published code gave for them.
"""

import json
import sys
from pathlib import Path

import numpy as np


def main(golden: Path) -> None:
    with np.load(golden / "golden_losses.npz") as arrays:
        meta = json.loads(bytes(arrays["meta"]).decode())
        names = [entry["name"] for entry in meta["losses"]]
        losses = {name: float(arrays[f"{name}/loss"]) for name in names}
    text = json.dumps({"seed": meta["seed"], "losses": losses}, indent=1)
    (Path(__file__).parent / "golden_losses.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
