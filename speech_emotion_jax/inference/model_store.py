"""A bounded store of loaded models that threads share."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition, Lock
from typing import Generic, Protocol, TypeVar, runtime_checkable

from ..errors import InvalidInput

CAPACITY = "SPEECH_EMOTION_JAX_MODELS"


@runtime_checkable
class Closable(Protocol):
    """A model whose memory can be freed."""

    def close(self) -> None:
        """Free the parameters and the compiled programs."""


Model = TypeVar("Model", bound=Closable)


@dataclass(eq=False)
class _Entry(Generic[Model]):
    key: Hashable
    model: Model
    users: int
    discarded: bool  # To be closed by its last user.


class ModelStore(Generic[Model]):
    """Models by key, of which at most SPEECH_EMOTION_JAX_MODELS (default 1) are loaded at any time.

    A model stays loaded after its use until its place is needed for another one. A model in use is never closed: a
    thread that needs its place waits until the last user is done.
    """

    def __init__(self) -> None:
        """Create an empty store."""
        self._admission = Lock()  # Held while a thread waits for a place and loads, so that the others queue up.
        self._changed = Condition()  # Guards the attributes below; notified when a model is no longer in use.
        self._entries: list[_Entry[Model]] = []  # The least recently used one comes first.
        self._clears = 0

    def __len__(self) -> int:
        """Return the number of loaded models."""
        return len(self._entries)

    @contextmanager
    def borrow(self, key: Hashable, load: Callable[[], Model]) -> Iterator[Model]:
        """Use the model of a key for the length of the context. Load it if it is not there.

        Any number of threads may use a model at once. A thread must not borrow a second model while it holds one.

        Args:
            key: All settings on which the model depends.
            load: Loads the model.

        Raises:
            InvalidInput: SPEECH_EMOTION_JAX_MODELS is not a whole number above 0.
        """
        entry = self._acquire(key, load)
        try:
            yield entry.model
        finally:
            self._release(entry)

    def clear(self) -> None:
        """Close all models. Those in use are closed by their last user."""
        with self._changed:
            self._clears += 1
            for entry in self._entries:
                entry.discarded = True
            self._close_unused()

    def _acquire(self, key: Hashable, load: Callable[[], Model]) -> _Entry[Model]:
        capacity = _capacity()
        with self._admission:
            with self._changed:
                for entry in self._entries:
                    if entry.key == key and not entry.discarded:
                        entry.users += 1
                        self._entries.remove(entry)
                        self._entries.append(entry)
                        return entry
                self._changed.wait_for(lambda: self._make_room(capacity))
                clears = self._clears
            model = load()
            with self._changed:
                # If `clear` was called during the loading, this model is closed after its first use.
                entry = _Entry(key, model, users=1, discarded=clears != self._clears)
                self._entries.append(entry)
            return entry

    def _release(self, entry: _Entry[Model]) -> None:
        with self._changed:
            entry.users -= 1
            self._close_unused()
            self._changed.notify_all()

    def _make_room(self, capacity: int) -> bool:
        """Close unused models, the least recently used first, until one more fits. Return whether it does."""
        for entry in [each for each in self._entries if not each.users]:
            if len(self._entries) < capacity:
                break
            entry.discarded = True
            self._close_unused()
        return len(self._entries) < capacity

    def _close_unused(self) -> None:
        for entry in [each for each in self._entries if each.discarded and not each.users]:
            self._entries.remove(entry)
            entry.model.close()


def _capacity() -> int:
    text = os.environ.get(CAPACITY, "1")
    if not text.isdecimal() or int(text) < 1:
        raise InvalidInput(f"{CAPACITY} is {text!r}; set it to a whole number above 0, or unset it")
    return int(text)
