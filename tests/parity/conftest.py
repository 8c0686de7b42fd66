"""Compile what is compared with the original as users compile it."""

from collections.abc import Iterator

import jax
import pytest

from ..conftest import OPTIMIZATIONS_OFF


@pytest.fixture(scope="module", autouse=True)
def _compiled_as_by_users() -> Iterator[None]:
    """Compile with all optimizations, nothing of which is left from other tests."""
    before = jax.config.read(OPTIMIZATIONS_OFF)
    jax.clear_caches()
    jax.config.update(OPTIMIZATIONS_OFF, False)
    yield
    jax.clear_caches()
    jax.config.update(OPTIMIZATIONS_OFF, before)
