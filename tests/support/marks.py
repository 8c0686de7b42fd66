"""Parameters of which the default run takes the first alone."""

from collections.abc import Iterable
from typing import Any

import pytest


def rest_slow(values: Iterable[Any]) -> list[Any]:
    """Return the values as parameters, all but the first with the marker `slow`."""
    first, *rest = values
    return [first, *(pytest.param(value, marks=pytest.mark.slow) for value in rest)]
