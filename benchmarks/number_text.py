"""Numbers as a reader wants them: few digits, fitting units."""

import math


def number(value: float | None, digits: int = 3) -> str:
    """Three significant digits without an exponent; a dash where there is no value."""
    if value is None or not math.isfinite(value):
        return "–"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:.{min(decimals, 4)}f}"


def length(value: float | None, unit: str) -> str:
    """A length in a readable unit: centimetres below one metre."""
    if value is None or not math.isfinite(value):
        return "–"
    if unit != "m":
        return f"{number(value)} {unit}"
    return f"{number(value * 100)} cm" if value < 1 else f"{number(value)} m"


def threshold(key: str) -> str:
    """``0.05m_0.5deg`` as ``5 cm, 0.5°``."""
    translation, _, rotation = key.partition("_")
    try:
        metres = float(translation.removesuffix("m"))
        degrees = float(rotation.removesuffix("deg"))
    except ValueError:
        return key
    length = f"{metres * 100:g} cm" if metres < 1 else f"{metres:g} m"
    return f"{length}, {degrees:g}°"


def seconds_text(value: float) -> str:
    return f"{value / 60:.1f} min" if value >= 120 else f"{number(value)} s"
