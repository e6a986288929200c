"""What `pip install` puts on a machine: every package of the four, and nothing named tests."""

import configparser
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("matching", "mapping", "localize", "benchmarks")


def setup() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config


def test_every_package_is_installed() -> None:
    listed = set(setup()["options"]["packages"].split())
    found = {
        init.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for part in PARTS
        for init in (ROOT / part).rglob("__init__.py")
    }
    assert listed == found
    modules = sorted(module.stem for module in ROOT.glob("*.py"))
    assert setup()["options"]["py_modules"].split() == modules


def test_every_module_is_in_a_package() -> None:
    for part in PARTS:
        for module in (ROOT / part).rglob("*.py"):
            scripts = ROOT / "benchmarks" / "speed"  # run from a checkout, not installed
            assert module.parent == scripts or (module.parent / "__init__.py").exists(), module


def test_imported_packages_are_requirements() -> None:
    required = set(re.findall(r"^[A-Za-z0-9_-]+", setup()["options"]["install_requires"], re.M))
    names = {"PIL": "Pillow", "yaml": "PyYAML", "faiss": "faiss-cpu"}
    heavy = ("numpy", "torch", "pycolmap", "poselib", "h5py", "tqdm", "PIL", "safetensors", "yaml")
    for module in (*heavy, "plotly", "faiss"):
        assert names.get(module, module) in required


def test_pinned_set_satisfies_the_lower_bounds() -> None:
    pins = {
        name.lower().replace("_", "-"): tuple(map(int, version.split(".")[:2]))
        for name, version in re.findall(
            r"^([A-Za-z0-9_.-]+)==([0-9.]+)", (ROOT / "constraints.txt").read_text(), re.M
        )
    }
    extras = setup()["options.extras_require"]["test"]
    for line in (setup()["options"]["install_requires"] + extras).split("\n"):
        if match := re.match(r"([A-Za-z0-9_.-]+)>=(\d+)\.(\d+)", line):
            name, *bound = match.groups()
            assert pins[name.lower().replace("_", "-")] >= tuple(map(int, bound)), line
