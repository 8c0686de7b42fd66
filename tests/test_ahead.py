"""Work done ahead in a thread: order, errors, an end for the thread, and never too much of it."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speech_emotion_jax.runtime.ahead import ahead

from .support.examples import examples


def eventually(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("grain-thread-prefetch")]


class Counting:
    """Counts up for long; knows how far it got, on which thread, and whether it was closed."""

    def __init__(self) -> None:
        self.given = 0
        self.closed = False
        self.thread: int | None = None

    def __iter__(self) -> Iterator[int]:
        self.thread = threading.get_ident()
        try:
            while self.given < 10_000:
                self.given += 1
                yield self.given
        finally:
            self.closed = True


@given(st.lists(st.none() | st.integers()), st.integers(-1, 9))
@settings(max_examples=examples(50))
def test_all_items_come_in_order(items: list[int | None], count: int):
    assert list(ahead(items, count)) == items
    assert not threads()


@pytest.mark.parametrize("place", [0, 1, 5])
@pytest.mark.parametrize("error", [ValueError("broken")])
def test_an_error_is_raised_where_it_stood(place: int, error: BaseException):
    def items() -> Iterator[int]:
        yield from range(place)
        raise error

    got = ahead(items(), 3)
    assert [next(got) for _ in range(place)] == list(range(place))
    with pytest.raises(type(error)) as raised:
        next(got)
    assert raised.value is error
    assert not threads()


@pytest.mark.parametrize("count", [1, 4])
def test_it_works_ahead_and_no_further_than_asked(count: int):
    source = Counting()
    items = ahead(source, count)
    for taken in range(1, 4):
        assert next(items) == taken
        # Those that wait, and the one that waits to be put to them.
        assert eventually(lambda taken=taken: source.given == taken + count + 1)
        time.sleep(0.15)
        assert source.given == taken + count + 1
    assert source.thread not in (None, threading.get_ident())
    items.close()


def test_nothing_starts_before_the_first_is_asked_for():
    source = Counting()
    items = ahead(source, 2)
    time.sleep(0.05)
    assert source.given == 0
    items.close()
    assert not threads()


@pytest.mark.parametrize("leave", [lambda items: items.close(), lambda items: items.throw(ValueError("enough"))])
def test_a_consumer_that_leaves_stops_the_thread(leave: Callable[[Iterator[int]], None]):
    source = Counting()
    items = ahead(source, 2)
    assert next(items) == 1
    assert threads()
    try:
        leave(items)
    except ValueError as error:
        assert str(error) == "enough"  # noqa: PT017, the other way of leaving raises nothing
    assert not threads()
    assert eventually(lambda: source.closed)
    given_then = source.given
    time.sleep(0.15)
    assert source.given == given_then


def test_a_forgotten_iterator_stops_the_thread():
    items = ahead(Counting(), 2)
    next(items)
    del items
    assert eventually(lambda: not threads())
