"""Signals during training are requests to stop. Earlier handlers are restored."""

import signal

import pytest

from textdiffseg.training.stop import deferred, stop_requests


@pytest.mark.parametrize(
    ("number", "kind", "code"),
    [(signal.SIGTERM, SystemExit, 143), (signal.SIGHUP, SystemExit, 129), (signal.SIGINT, KeyboardInterrupt, None)],
)
def test_a_signal_waits_as_the_exception_that_it_means(number, kind, code):
    before = signal.signal(number, signal.SIG_DFL)  # the tests may run under nohup
    try:
        with stop_requests() as stop:
            signal.raise_signal(number)
            assert type(stop[0]) is kind
            assert getattr(stop[0], "code", None) == code
    finally:
        signal.signal(number, before)


def test_nohup_keeps_its_meaning():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_requests() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop == []
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_interrupt_does_not_wait():
    with stop_requests():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_the_handlers_before_come_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with stop_requests():
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_of_several_errors_the_first_is_kept_and_a_second_interrupt_does_not_wait():
    first, stop = ValueError("first"), []
    for error in (first, ValueError("second")):
        with deferred(stop):
            raise error
    assert stop == [first]
    with pytest.raises(KeyboardInterrupt), deferred(stop):
        raise KeyboardInterrupt
    assert stop == [first]
