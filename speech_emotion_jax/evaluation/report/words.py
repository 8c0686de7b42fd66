"""Numbers and their nouns, as a report writes them."""

from __future__ import annotations

NO_VALUE = "\N{EN DASH}"  # no value
HEADLINE_METRICS = {"accuracy": "Accuracy", "uar": "UAR", "macro_f1": "Macro-F1"}


def percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}\xa0%"


def duration(seconds: int | float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:,.1f}\xa0{unit}"
    return f"{seconds:.1f}\xa0s"


def plural(name: str, count: int | float) -> str:
    return name if count == 1 else f"{name}s"


def count_of(count: int, name: str) -> str:
    return f"{count:,} {plural(name, count)}"


def is_or_are(count: int) -> str:
    return "is" if count == 1 else "are"
