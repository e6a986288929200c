"""Two images in, matches, point maps and descriptors out; knows nothing of COLMAP maps."""

from typing import TYPE_CHECKING

from matching.lazy import lazy_names

if TYPE_CHECKING:
    from matching.errors import InputError
    from matching.load import load_matcher
    from matching.matcher import Matcher
    from matching.types import Matches, View
else:
    __getattr__ = lazy_names(
        __name__,
        {
            "InputError": "matching.errors",
            "Matcher": "matching.matcher",
            "Matches": "matching.types",
            "View": "matching.types",
            "load_matcher": "matching.load",
        },
    )

__all__ = ["InputError", "Matcher", "Matches", "View", "load_matcher"]
