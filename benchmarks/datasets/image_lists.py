"""Lists of photos as benchmarks publish them: names, with or without intrinsics."""

import pycolmap

from mapping.cameras import read_camera_list
from matching.errors import InputError
from matching.files import PathLike, existing_file


def read_photo_list(file: PathLike) -> dict[str, pycolmap.Camera | None]:
    """Read ``name`` or ``name MODEL WIDTH HEIGHT PARAMS...`` lines (hloc's query lists).

    Empty lines and lines that start with ``#`` are skipped; the names keep their order.

    Returns:
        Camera by name, None for a name alone.

    Raises:
        InputError: The file is missing or empty, a name comes twice, a camera is malformed, or
            only some lines have one.
    """
    path = existing_file(file, "list of photos")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n")]
    except UnicodeDecodeError as error:
        raise InputError(f"'{path}' is no UTF-8 text") from error
    models = set(pycolmap.CameraModelId.__members__)
    if any(models & set(line.split()[1:]) for line in lines if not line.startswith("#")):
        return dict(read_camera_list(path))
    cameras: dict[str, pycolmap.Camera | None] = {}
    for number, line in enumerate(lines, 1):
        if not line or line.startswith("#"):
            continue
        if line in cameras:
            raise InputError(f"'{path}' line {number}: '{line}' is listed twice")
        cameras[line] = None
    if not cameras:
        raise InputError(f"'{path}' lists no photo")
    return cameras
