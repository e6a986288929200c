"""Photos of a download that are damaged, found without decoding them all."""

import os
from pathlib import Path

from matching.errors import InputError
from matching.images import read_image

_JPEG, _JPEG_SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
_PNG, _PNG_END = b"\x89PNG", b"IEND\xaeB`\x82"
_TAIL_BYTES = 64 * 2**10  # cameras write some more after the end of a JPEG


def damage(photo: Path) -> str:
    """What is wrong with a photo; empty if nothing is.

    A download or an archive that broke off leaves files without their ends. Only a photo whose end
    is not found is decoded.
    """
    if not photo.is_file():
        return f"no photo '{photo}'"
    with photo.open("rb") as file:
        head = file.read(4)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL_BYTES))
        tail = file.read()
    # an end before the last scan is that of the small picture in the EXIF block
    if head.startswith(_JPEG) and tail.rfind(_JPEG_END) > tail.rfind(_JPEG_SCAN):
        return ""
    if head.startswith(_PNG) and tail.endswith(_PNG_END):
        return ""
    try:
        read_image(photo, apply_exif_orientation=False)
    except InputError as error:
        return str(error)
    return ""
