"""Parameters by dotted path, {"audio_encoder.projection.kernel": array}, and the same as nested dicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Parameters = dict[str, Any]  # The values are arrays or dicts of the same type.


def nest(parameters: Mapping[str, Any]) -> Parameters:
    """Turn {"a.b": array} into {"a": {"b": array}}. Keys keep the order in which they come first."""
    tree: Parameters = {}
    for path, leaf in parameters.items():
        *names, last = path.split(".")
        branch = tree
        for name in names:
            branch = branch.setdefault(name, {})
        branch[last] = leaf
    return tree


def flatten(tree: Parameters) -> dict[str, Any]:
    """Turn {"a": {"b": array}} into {"a.b": array}: the inverse of `nest`."""

    def leaves(tree: Parameters, prefix: str) -> Iterator[tuple[str, Any]]:
        for name, value in tree.items():
            if isinstance(value, dict):
                yield from leaves(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", value

    return dict(leaves(tree, ""))
