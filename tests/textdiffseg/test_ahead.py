import gc
import threading
import weakref

import pytest

from textdiffseg.ahead import ahead


@pytest.mark.parametrize("active", [True, False])
def test_items_and_errors_keep_their_places(active):
    def items():
        yield from range(3)
        raise ZeroDivisionError

    used = ahead(items(), active)
    assert [next(used) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ZeroDivisionError):
        next(used)
    assert list(ahead(iter(()), active)) == []


def test_one_item_is_computed_while_another_is_used_and_no_more():
    started = [threading.Event() for _ in range(4)]

    def items():
        for number, event in enumerate(started):
            event.set()
            yield number

    for number in ahead(items()):
        if number < 3:
            assert started[number + 1].wait(10), "the next item is computed meanwhile"
        if number < 2:
            assert not started[number + 2].wait(0.05)


def test_without_a_thread_items_are_computed_when_they_are_used():
    computed = []
    used = ahead((computed.append(number) or number for number in range(3)), active=False)
    assert next(used) == 0
    assert computed == [0]


def test_the_thread_is_stopped_and_waited_for_if_the_items_are_not_used_to_the_end():
    stopped, ended = threading.Event(), threading.Event()

    def items():
        yield 0
        assert stopped.wait(10)
        ended.set()
        yield 1

    used = ahead(items(), stop=stopped.set)
    assert next(used) == 0
    used.close()
    assert ended.is_set()


@pytest.mark.parametrize("active", [True, False])
def test_what_an_error_leaves_behind_is_freed_at_once(active):
    class Array:
        pass

    made = []

    def items():
        array = Array()
        made.append(weakref.ref(array))
        yield 1
        raise ZeroDivisionError(str(array))

    def use():
        try:
            list(ahead(items(), active))
        except ZeroDivisionError:
            return

    gc.disable()
    try:
        use()
        assert made[0]() is None
    finally:
        gc.enable()
