"""The versions of packages: those that are installed, and the ranges that this package is tested with."""

from __future__ import annotations

import platform
import re
from importlib.metadata import PackageNotFoundError, version

from ..errors import UnsupportedVersion

# As in pyproject.toml, which a test compares. docs/versions.md says when they move.
PYTHON = ">=3.11,<3.15"
TESTED = {"jax": ">=0.10.2,<0.13", "flax": ">=0.12.8,<0.13"}


def versions(*packages: str) -> dict[str, str]:
    """{package: version} of those that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def require_tested_versions() -> None:
    """Check Python, JAX and Flax, without importing them.

    Raises:
        UnsupportedVersion: One of them is missing or outside its range. The message names the range, what is
            installed and the remedy.
    """
    if not _contains(PYTHON, python := platform.python_version()):
        raise UnsupportedVersion(
            f"speech_emotion_jax is tested with Python {PYTHON} and this is {python}; install it with another Python"
        )
    installed = versions(*TESTED)
    for package, tested in TESTED.items():
        if not _contains(tested, installed.get(package, "")):
            remedy = " ".join(f"'{name}{bounds}'" for name, bounds in TESTED.items())
            raise UnsupportedVersion(
                f"speech_emotion_jax is tested with {package}{tested} and "
                f"{installed.get(package, 'no version')} is installed; pip install {remedy}"
            )


def _contains(bounds: str, found: str) -> bool:
    """Whether a version lies in a range such as ">=0.10.2,<0.13". A pre-release counts as its release."""
    least, beyond = (_release(bound.lstrip("<>=")) for bound in bounds.split(","))
    return least <= _release(found) < beyond


def _release(name: str) -> tuple[int, ...]:
    numbers = re.match(r"\d+(\.\d+)*", name)
    return tuple(int(number) for number in numbers[0].split(".")) if numbers else ()
