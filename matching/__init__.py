"""Two images in, matches, point maps and descriptors out; knows nothing of COLMAP maps."""

from matching.errors import InputError
from matching.load import load_matcher
from matching.matcher import Matcher
from matching.types import Matches, View

__all__ = ["InputError", "Matcher", "Matches", "View", "load_matcher"]
