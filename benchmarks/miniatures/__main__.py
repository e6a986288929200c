"""Write a miniature data set: ``python -m benchmarks.miniatures NAME FOLDER``.

Then ``groundloc benchmark NAME FOLDER --out RUN`` runs the benchmark on it.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.miniatures.studio import Studio

# names of benchmarks to modules of this package with a function `write_<module>(root, studio)`
MODULES = {
    "12scenes": "twelve_scenes",
    "7scenes": "seven_scenes",
    "aachen": "aachen",
    "cambridge": "cambridge",
    "cmu": "cmu",
    "colmap": "colmap_folder",
    "inloc": "inloc",
    "kapture": "kapture",
    "mapfree": "mapfree",
    "megadepth1500": "megadepth1500",
    "pairs": "colmap_folder",
    "robotcar": "robotcar",
    "scannet1500": "scannet1500",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Render one miniature into a new or empty folder."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.miniatures", description=__doc__)
    parser.add_argument("name", choices=sorted(MODULES))
    parser.add_argument("folder", type=Path, help="new or empty")
    arguments = parser.parse_args(argv)
    if arguments.folder.exists() and any(arguments.folder.iterdir()):
        parser.error(f"'{arguments.folder}' is not empty")
    module = MODULES[arguments.name]
    write = getattr(importlib.import_module(f"benchmarks.miniatures.{module}"), f"write_{module}")
    write(arguments.folder, Studio())
    command = f"groundloc benchmark {arguments.name} {arguments.folder} --out RUN"
    sys.stdout.write(f"wrote '{arguments.folder}', for {command}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
