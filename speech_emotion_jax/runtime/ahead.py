"""Read an iterable ahead in one of Grain's threads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")


class _Stream(Generic[Item]):
    """An iterator without a state, in the form that Grain takes."""

    def __init__(self, items: Iterable[Item]):
        self._items = iter(items)

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        return next(self._items)

    def get_state(self) -> None:
        """Return no state, since a stream cannot go back."""

    def set_state(self, state: None) -> None:
        """Ignore a state."""


def ahead(items: Iterable[Item], count: int) -> Iterator[Item]:
    """Iterate over items that a thread computes before they are asked for.

    Args:
        items: The items. Errors of its iterator are raised at their place.
        count: Items that wait to be asked for at most, at least 1.

    Yields:
        The items, in order.
    """
    from grain.experimental import ThreadPrefetchDatasetIterator

    stream: Any = _Stream(items)  # Grain asks for these methods, its types for a class of its own.
    iterator = ThreadPrefetchDatasetIterator(stream, max(1, count))
    try:
        yield from iterator
    finally:
        iterator.close()
