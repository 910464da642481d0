"""Signals during training are requests to stop. Earlier handlers are restored."""

import signal

import pytest

from textdiffseg.training.stop import stop_requests


@pytest.mark.parametrize(
    ("number", "kind", "code"), [(signal.SIGTERM, SystemExit, 143), (signal.SIGINT, KeyboardInterrupt, None)]
)
def test_a_signal_waits_as_the_exception_that_it_means(number, kind, code):
    with stop_requests() as stop:
        signal.raise_signal(number)
        assert type(stop[0]) is kind
        assert getattr(stop[0], "code", None) == code


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
