"""From a photo folder to encoded photos; bad ones are listed with their reason."""

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from mapping.info import MapImage
from mapping.store import write_view
from matching.errors import InputError
from matching.files import PathLike, existing_folder, sha256_of_file
from matching.images import list_images, printable_name, read_image
from matching.matcher import ImageLike, Matcher
from matching.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Photo:
    """A photo file.

    Attributes:
        name: Path relative to the photo folder, with ``/``.
        path: The file.
        size_bytes: Its size.
        mtime_ns: When it changed last.
    """

    name: str
    path: Path
    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True, kw_only=True)
class PhotoSet:
    """Photos to map.

    Attributes:
        photos: Files that exist, by name.
        bad: Names that cannot be used to the reason.
    """

    photos: dict[str, Photo]
    bad: dict[str, str]


def find_photos(folder: PathLike, names: Sequence[str] | None = None) -> PhotoSet:
    """The photos below a folder.

    Args:
        folder: Photo folder.
        names: Only these, relative to it; None takes all. A missing one counts as bad.

    Raises:
        InputError: No such folder, no photos, a name outside the folder or given twice.
    """
    root = existing_folder(folder, "photo folder")
    if names is None:
        wanted = list_images(root)
    else:
        wanted = [checked_name(name) for name in names]
        if not wanted:
            raise InputError("the list of photos to map is empty")
        twice, times = Counter(wanted).most_common(1)[0]
        if times > 1:
            raise InputError(f"the list of photos to map names '{twice}' twice")
    photos, bad = {}, {}
    for name in sorted(wanted):
        shown = printable_name(name)
        if shown != name:
            bad[shown] = "its name is no printable UTF-8: rename the file"
            continue
        path = root / name
        if not path.is_file():
            bad[name] = f"there is no file '{path}'"
            continue
        status = path.stat()
        photos[name] = Photo(
            name=name, path=path, size_bytes=status.st_size, mtime_ns=status.st_mtime_ns
        )
    return PhotoSet(photos=photos, bad=bad)


def content_hash(photo: Photo) -> str:
    """SHA-256 of a photo's file; empty if it is gone or was replaced."""
    try:
        status = photo.path.stat()
        if (status.st_size, status.st_mtime_ns) != (photo.size_bytes, photo.mtime_ns):
            return ""
        return sha256_of_file(photo.path)
    except OSError:
        return ""


def recognize_copies(
    photos: Mapping[str, Photo], known: Sequence[MapImage], progress: Progress
) -> dict[str, Photo]:
    """The photos, copies of known ones with the time of these.

    A photo folder that was copied, unpacked or synchronized holds the same photos with new times.
    Only where name and size are those of a known photo and the time is not, the content is read.

    Args:
        photos: Photos by name.
        known: Photos of a map.
        progress: Wraps the loop over photos that are read.
    """
    of_map = {image.name: image for image in known}
    same_size = [
        photo
        for name, photo in photos.items()
        if name in of_map
        and photo.size_bytes == of_map[name].size_bytes
        and photo.mtime_ns != of_map[name].mtime_ns
        and of_map[name].sha256
    ]
    found = dict(photos)
    for photo in progress(same_size, "comparing photos", len(same_size)) if same_size else []:
        image = of_map[photo.name]
        if content_hash(photo) == image.sha256:
            found[photo.name] = replace(photo, mtime_ns=image.mtime_ns)
    return found


def checked_name(name: str) -> str:
    """The usual spelling of a photo's name, ``a/b.jpg``.

    Raises:
        InputError: The name leaves the photo folder.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise InputError(
            f"the photo name '{name}' leaves the photo folder: names are relative to it"
        )
    return path.as_posix()


def view_key(photo: Photo, matcher: Matcher, *, apply_exif_orientation: bool) -> str:
    """Names the encoding of a photo: another file, matcher or orientation gives another key."""
    parts: tuple[object, ...] = (
        photo.name, photo.size_bytes, photo.mtime_ns, matcher.name, matcher.fingerprint,
        apply_exif_orientation,
    )  # fmt: skip
    if matcher.reads_files:  # what it looks up may have changed under the same name
        parts += (sorted(matcher.describe().items()),)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def encode_photos(
    photos: Sequence[Photo],
    keys: Sequence[str],
    matcher: Matcher,
    cache: Path,
    *,
    apply_exif_orientation: bool,
    progress: Progress,
    encoded: Callable[[str], None] | None = None,
    with_keypoints: bool = True,
) -> dict[str, str]:
    """Encode photos into ``cache/<key>.npz``; those that are there already are kept.

    Args:
        photos: What to encode.
        keys: The key of each photo, see `view_key`.
        matcher: Encodes.
        cache: Folder of the encodings.
        apply_exif_orientation: Turn photos as their EXIF says.
        progress: Wraps the loop over photos.
        encoded: Called with the name of each photo whose encoding is there, the last ones while
            others are being encoded.
        with_keypoints: Choose keypoints, at which all pairs of a map's photo are matched.

    Returns:
        Photos that could not be read to the reason.
    """
    todo = [
        (photo, cache / f"{key}.npz")
        for photo, key in zip(photos, keys, strict=True)
        if not (cache / f"{key}.npz").exists()
    ]
    bad: dict[str, str] = {}
    done = encoded or (lambda name: None)
    missing = {photo.name for photo, _ in todo}
    for photo in photos:
        if photo.name not in missing:
            done(photo.name)

    def images() -> Iterator[ImageLike]:
        for photo, _ in todo:
            if apply_exif_orientation or matcher.reads_files:
                yield photo.path
                continue
            try:
                yield read_image(photo.path, apply_exif_orientation=False)
            except InputError:
                yield photo.path  # the matcher meets the same error and reports it in order

    encode = matcher.encode_for_map if with_keypoints else matcher.encode_many
    views = zip(todo, encode(images()), strict=True)
    for (photo, file), view in progress(views, "encoding photos", len(todo)):
        if isinstance(view, InputError):
            bad[photo.name] = str(view)
        else:
            write_view(file, view)
            done(photo.name)
    return bad


def too_few_photos(
    what: str, good: Collection[str], found: PhotoSet, bad: Mapping[str, str]
) -> str:
    """Why there is nothing to make of the photos, with the first bad one as an example.

    Args:
        what: What needs two of them.
        good: Those that can be used.
        found: All.
        bad: The others to their reasons.
    """
    number = len(found.photos) + len(found.bad)
    text = f"only {len(good)} of {number} photos can be used, but a {what} needs at least 2"
    if bad:
        name, reason = next(iter(sorted(bad.items())))
        text += f" ('{name}': {reason})"
    return text
