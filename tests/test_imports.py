"""Imports point one way, and the command line starts without the heavy packages."""

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import mapping
import matching

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ["matching", "mapping", "localize", "benchmarks", "groundloc"]


def modules() -> list[Path]:
    files = sorted(ROOT.glob("groundloc*.py"))
    for package in LAYERS[:-1]:
        files += sorted((ROOT / package).rglob("*.py"))
    return files


@pytest.mark.parametrize("file", modules(), ids=lambda f: f.relative_to(ROOT).as_posix())
def test_imports_point_one_way(file: Path) -> None:
    own = file.relative_to(ROOT).parts[0].removesuffix(".py").split("_")[0]
    above = set(LAYERS[LAYERS.index(own) + 1 :]) | {"tests"}
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            names = [node.module or ""]
        else:
            continue
        wrong = [name for name in names if name.split(".")[0] in above]
        assert not wrong, f"line {node.lineno}: {own} must not import {wrong[0]}"


def loaded_by(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after running the code."""
    script = f"{code}\nimport sys; print(' '.join({{m.split('.')[0] for m in sys.modules}}))"
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(run.stdout.splitlines()[-1].split())


def test_help_loads_nothing_heavy() -> None:
    code = "import groundloc\ntry:\n    groundloc.main(['--help'])\nexcept SystemExit:\n    pass"
    heavy = {"torch", "pycolmap", "poselib", "faiss", "numpy", "PIL", "h5py", "plotly"}
    assert not loaded_by(code) & heavy


@pytest.mark.parametrize("package", LAYERS[:-1])
def test_packages_import_alone(package: str) -> None:
    # public names are imported when they are asked for
    loaded = loaded_by(f"import {package} as p; [getattr(p, name) for name in p.__all__]")
    assert package in loaded
    assert not loaded & set(LAYERS[LAYERS.index(package) + 1 :])


def test_checks_of_files_load_nothing_heavy() -> None:
    code = "from mapping.info import read_info; from matching.files import existing_file"
    assert not loaded_by(code) & {"torch", "pycolmap", "faiss", "numpy", "h5py"}


@pytest.mark.parametrize("package", [matching, mapping])
def test_lazy_names_are_the_public_ones(package: ModuleType) -> None:
    for name in package.__all__:
        assert getattr(package, name).__name__ == name
    with pytest.raises(AttributeError, match="'nothing'"):
        _ = package.nothing
