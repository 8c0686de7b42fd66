"""Format numbers and their nouns for a report."""

from __future__ import annotations

NO_VALUE = "\N{EN DASH}"  # no value
HEADLINE_METRICS = {"accuracy": "Accuracy", "uar": "UAR", "macro_f1": "Macro-F1"}


def percent(fraction: float) -> str:
    """Format a fraction as a percentage."""
    return f"{100 * fraction:.1f}\xa0%"


def duration(seconds: int | float) -> str:
    """Format a duration in the largest fitting unit."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:,.1f}\xa0{unit}"
    return f"{seconds:.1f}\xa0s"


def plural(name: str, count: int | float) -> str:
    """Return the noun in singular or plural."""
    return name if count == 1 else f"{name}s"


def count_of(count: int, name: str) -> str:
    """Format a count with its noun."""
    return f"{count:,} {plural(name, count)}"


def is_or_are(count: int) -> str:
    """Return the verb for a count."""
    return "is" if count == 1 else "are"
