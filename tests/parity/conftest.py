"""Compile what is compared with the original as users compile it."""

from collections.abc import Iterator

import pytest

from ..conftest import all_optimizations


@pytest.fixture(scope="module", autouse=True)
def _compiled_as_by_users() -> Iterator[None]:
    with all_optimizations():
        yield
