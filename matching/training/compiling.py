"""Compiled versions of functions, made at their first use on a GPU."""

import functools
from collections.abc import Callable
from typing import Any

import torch


@functools.cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` fused by torch.compile for every new shape of its arguments."""
    return torch.compile(function, dynamic=False)
