"""Public names of a package that are imported when they are first asked for (PEP 562).

A package's ``__init__`` that imports them at once makes ``matching.files`` wait seconds for torch.
"""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package.

    Args:
        package: Its name.
        homes: Public name to the module that defines it.
    """

    def look_up(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        value = getattr(import_module(homes[name]), name)
        setattr(sys.modules[package], name, value)  # asked once
        return value

    return look_up
