"""Work done ahead: an iterable that a thread runs while its consumer is busy with what came before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from queue import Full, Queue
from threading import Event, Thread
from typing import NamedTuple, TypeVar

Item = TypeVar("Item")


class _End(NamedTuple):
    error: BaseException | None


def ahead(items: Iterable[Item], count: int) -> Iterator[Item]:
    """The items, up to `count` of them computed before they are asked for. Errors are raised where they stood."""
    queue: Queue[Item | _End] = Queue(max(1, count))
    abandoned = Event()

    def put(item: Item | _End) -> bool:
        while not abandoned.is_set():
            try:
                queue.put(item, timeout=0.1)
                return True
            except Full:
                continue
        return False

    def work() -> None:
        error = None
        try:
            for item in items:
                if not put(item):
                    return
        except BaseException as raised:
            error = raised
        put(_End(error))

    thread = Thread(target=work, daemon=True, name="read-ahead")
    thread.start()
    try:
        while not isinstance(item := queue.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        abandoned.set()
        thread.join()
