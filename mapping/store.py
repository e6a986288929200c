"""Encoded photos on disk: ``features.h5`` of a map, and single files while a map is being made."""

import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

import h5py
import numpy as np
from numpy.typing import NDArray

from mapping.retrieval import GlobalDescriber
from matching.errors import InputError
from matching.files import PathLike, atomic_file
from matching.types import View

FEATURES = "features.h5"
FIRST_PART = "features.0.h5"
_PART = "features."  # number, .h5
_MAX_OPEN_PARTS = 128  # per map: many systems let a process open no more than 1,024 files
_ARRAY = "arrays/"
_ENCODING = ("arrays", "global_descriptor")  # of a photo: what stays when it gets more keypoints
# what h5py raises where bytes of a file have changed
_DAMAGE = (OSError, KeyError, RuntimeError, ValueError)


# ---------------------------------------------------------------- one view, one file


def write_view(path: PathLike, view: View) -> None:
    """Write an encoded photo as an ``.npz`` file, whole or not at all."""
    arrays: dict[str, Any] = {_ARRAY + name: value for name, value in view.arrays.items()}
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        # savez's own argument is called `file`, so names of the matcher never clash with it
        np.savez(file, keypoints=view.keypoints, image_size=np.array(view.image_size), **arrays)


def read_view(path: PathLike) -> View:
    """Read what `write_view` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        width, height = stored["image_size"].tolist()
        return View(
            image_size=(width, height),
            keypoints=stored["keypoints"],
            arrays={
                n.removeprefix(_ARRAY): stored[n] for n in stored.files if n.startswith(_ARRAY)
            },
        )


# ---------------------------------------------------------------- features.h5


def write_features(
    path: PathLike,
    views: Iterable[tuple[str, View, NDArray[np.float32]]],
    describer: GlobalDescriber,
) -> None:
    """Write ``features.h5``.

    Layout: ``images/<name>/keypoints`` (N, 2), ``images/<name>/arrays/<array>`` of the matcher,
    ``images/<name>/global_descriptor`` (G,), attribute ``image_size`` (width, height); and
    ``retrieval/*``, the vocabulary. All data sets carry checksums.

    Args:
        path: The file, replaced when complete.
        views: Name, encoded photo and global descriptor of each photo.
        describer: What made the global descriptors.
    """
    with atomic_file(path) as temporary, h5py.File(temporary, "w") as file:
        for name, view, descriptor in views:
            _write_photo(file, name, view, descriptor)
        retrieval = file.create_group("retrieval")
        for array, values in describer.arrays().items():
            _write_array(retrieval, array, values)


def is_feature_part(name: str) -> bool:
    """Whether a file of a map is one that its ``features.h5`` links to."""
    return name.startswith(_PART) and name.endswith(".h5") and name != FEATURES


def extend_features(
    source: Path,
    folder: Path,
    names: Iterable[str],
    added: Sequence[str],
    views: Iterable[tuple[str, View, NDArray[np.float32]]],
) -> None:
    """Write the ``features.h5`` of an extended map without copying what it keeps.

    The new one holds links (HDF5's own, which every reader follows) into ``features.0.h5``, which
    is the first one under another name, and into one more file per extension. Of a photo of the map
    that got more keypoints, that file holds these, and links to the rest.

    Args:
        source: The old map's ``features.h5``; it stays as it is.
        folder: Where the new files go, and what an interrupted run left of them is; those kept
            since an earlier extension stay beside ``source``.
        names: Photos of the old map.
        added: Names of the photos added, and of those whose keypoints have changed.
        views: These photos; see `write_features`.
    """
    with h5py.File(source, "r", locking=False) as old:
        links = {name: old.get(f"images/{name}", getlink=True) for name in names}
        stays = {name: _links_to_encoding(old, name) for name in set(added).intersection(links)}
        retrieval = {name: values[()] for name, values in old["retrieval"].items()}
    kept = {n: link.filename for n, link in links.items() if isinstance(link, h5py.ExternalLink)}
    if len(kept) < len(links):  # never extended before
        kept = dict.fromkeys(links, FIRST_PART)
        _same_file(source, folder / FIRST_PART)
    number = 1 + max(int(file.removeprefix(_PART).removesuffix(".h5")) for file in kept.values())
    part = folder / f"{_PART}{number}.h5"
    if not part.exists():
        with atomic_file(part) as temporary, h5py.File(temporary, "w") as file:
            for name, view, descriptor in views:
                _write_photo(file, name, view, descriptor, stays.get(name))
    kept |= dict.fromkeys(added, part.name)
    with atomic_file(folder / FEATURES) as temporary, h5py.File(temporary, "w") as file:
        for name, target in kept.items():
            file[f"images/{name}"] = h5py.ExternalLink(target, f"/images/{name}")
        group = file.create_group("retrieval")
        for array, values in retrieval.items():
            _write_array(group, array, values)


def _same_file(source: Path, target: Path) -> None:
    """Another name of a file that never changes; a copy on disks that have no such thing."""
    if target.exists():
        return
    try:
        target.hardlink_to(source)
    except OSError:
        with atomic_file(target) as temporary:
            shutil.copyfile(source, temporary)


def _links_to_encoding(file: h5py.File, name: str) -> dict[str, h5py.ExternalLink]:
    """Where the encoding of a photo is, all but its keypoints: links for another file."""
    photo = file.get(f"images/{name}", getlink=True)
    home = photo.filename if isinstance(photo, h5py.ExternalLink) else FIRST_PART
    links = {}
    for key, link in ((key, file[f"images/{name}"].get(key, getlink=True)) for key in _ENCODING):
        if isinstance(link, h5py.ExternalLink):  # it stayed behind in an earlier extension, too
            links[key] = h5py.ExternalLink(link.filename, link.path)
        elif link is not None:
            links[key] = h5py.ExternalLink(home, f"/images/{name}/{key}")
    return links


def _write_photo(
    file: h5py.File,
    name: str,
    view: View,
    descriptor: NDArray[np.float32],
    stays: Mapping[str, h5py.ExternalLink] | None = None,
) -> None:
    group = file.create_group(f"images/{name}")
    group.attrs["image_size"] = np.array(view.image_size, np.int64)
    _write_array(group, "keypoints", view.keypoints)
    if stays is not None:
        for key, link in stays.items():
            group[key] = link
        return
    for array, values in view.arrays.items():
        _write_array(group, _ARRAY + array, values)
    _write_array(group, "global_descriptor", descriptor)


def _write_array(group: h5py.Group, name: str, values: NDArray[Any]) -> None:
    """One checksummed data set; bytes are worth compressing, floating point numbers are not."""
    values = np.asarray(values)
    if values.size == 0:
        group.create_dataset(name, data=values)
    elif values.dtype == np.uint8:
        group.create_dataset(
            name, data=values, chunks=values.shape, compression="gzip", compression_opts=1,
            fletcher32=True,
        )  # fmt: skip
    else:
        group.create_dataset(name, data=values, chunks=values.shape, fletcher32=True)


def features_bytes(num_photos: int, num_view_bytes: int) -> int:
    """Upper bound of the size of ``features.h5`` for photos whose views take so much memory."""
    per_photo = 2**14 + 4 * 2**12  # HDF5's own records, and the global descriptor
    return num_view_bytes + per_photo * num_photos + 2**22  # the vocabulary


class FeatureFile:
    """A ``features.h5`` open for reading, with the files that it links to.

    They are opened at once: what another process replaces or deletes then stays as it was here
    (HDF5's own way of following a link looks for the file by its name, each time; it has to do for
    what comes after the first `_MAX_OPEN_PARTS`).

    Raises:
        InputError: The file is no such file, or damaged where it is read.
    """

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)
        try:
            # files of a map never change in place, and locks fail on some network disks
            self._file = h5py.File(self.path, "r", locking=False)
        except _DAMAGE as error:
            raise self._damaged(error) from error
        self._parts: dict[str, h5py.File] = {}
        parts = self.path.parent.glob(f"{_PART}*.h5")
        in_order = sorted(parts, key=lambda part: (len(part.name), part.name))
        self._unopened = {part.name for part in in_order[_MAX_OPEN_PARTS:]}
        for part in in_order[:_MAX_OPEN_PARTS]:
            with suppress(OSError):  # damaged, or deleted just now: told of the photos in it
                self._parts[part.name] = h5py.File(part, "r", locking=False)

    def close(self) -> None:
        """Close the files; views read before stay valid."""
        for file in (self._file, *self._parts.values()):
            file.close()

    def view(self, name: str) -> View:
        """The encoded photo; an `InputError` names it if it is damaged."""
        try:
            group = self._photo(name)
            width, height = group.attrs["image_size"].tolist()
            has_arrays = group.get("arrays", getlink=True) is not None
            arrays = self._member(group, "arrays") if has_arrays else {}
            return View(
                image_size=(width, height),
                keypoints=group["keypoints"][()],
                arrays={array: arrays[array][()] for array in arrays},
            )
        except _DAMAGE as error:
            raise self._damaged(error, f"the encoding of '{name}' in ") from error

    def global_descriptor(self, name: str) -> NDArray[np.float32]:
        """The global descriptor (G,) of a photo."""
        try:
            return np.asarray(self._member(self._photo(name), "global_descriptor")[()])
        except _DAMAGE as error:
            raise self._damaged(error, f"the description of '{name}' in ") from error

    def describer(self) -> GlobalDescriber:
        """What turns a query's local descriptors into a global one."""
        try:
            group = self._file["retrieval"]
            return GlobalDescriber(**{name: group[name][()] for name in group})
        except _DAMAGE as error:
            raise self._damaged(error) from error

    def problems(self, names: Iterable[str]) -> list[str]:
        """Which of the photos cannot be read, one line each; reads all of them."""
        found = []
        for name in names:
            try:
                self.view(name)
                self.global_descriptor(name)
            except InputError as error:
                found.append(str(error))
        return found

    def _photo(self, name: str) -> h5py.Group:
        return self._member(self._file, f"images/{name}")

    def _member(self, group: h5py.Group, key: str) -> Any:
        """What a group holds, or links to in a part."""
        link = group.get(key, getlink=True)
        if not isinstance(link, h5py.ExternalLink) or link.filename in self._unopened:
            return group[key]
        if link.filename not in self._parts:
            raise OSError(f"'{link.filename}' cannot be read")
        return self._parts[link.filename][link.path]

    def _damaged(self, error: Exception, part: str = "") -> InputError:
        return InputError(f"{part}'{self.path}' is damaged: {' '.join(str(error).split())}")


# ---------------------------------------------------------------- keeping the last used in memory

Key = TypeVar("Key")


class ViewCache(Generic[Key]):
    """The views used last, up to a number of bytes; safe to share between threads.

    Args:
        load: Loads the view of a key.
        max_bytes: Views beyond this are forgotten, the longest unused first.
    """

    def __init__(self, load: Callable[[Key], View], max_bytes: int = 2**30) -> None:
        self._load = load
        self._max_bytes = max_bytes
        self._bytes = 0
        self._views: OrderedDict[Key, View] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, key: Key) -> View:
        """The view of a key, from memory if it is there."""
        with self._lock:
            if key in self._views:
                self._views.move_to_end(key)
                return self._views[key]
            view = self._load(key)
            self._views[key] = view
            self._bytes += view_bytes(view)
            while self._bytes > self._max_bytes and len(self._views) > 1:
                _, old = self._views.popitem(last=False)
                self._bytes -= view_bytes(old)
            return view


def view_bytes(view: View) -> int:
    """Memory of a view's arrays in bytes."""
    return view.keypoints.nbytes + sum(a.nbytes for a in view.arrays.values())


def with_keypoints(view: View, keypoints: NDArray[np.float32]) -> View:
    """The view with the keypoints the map has chosen; its other arrays keep their rows."""
    return View(image_size=view.image_size, keypoints=keypoints, arrays=view.arrays)


def named_views(
    names: Iterable[str],
    load: Callable[[str], View],
    keypoints: Mapping[str, NDArray[np.float32]],
    descriptors: Mapping[str, NDArray[np.float32]],
) -> Iterator[tuple[str, View, NDArray[np.float32]]]:
    """Photos as `write_features` takes them, one in memory at a time."""
    for name in names:
        yield name, with_keypoints(load(name), keypoints[name]), descriptors[name]
