from __future__ import annotations

import signal
import threading

import pytest

from gluon_compress.stopping import Terminated, deferred


@pytest.fixture(autouse=True)
def _handlers():
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def deferring(*numbers: int, ask: bool = True) -> list[str]:
    """Do two steps, with signals in the first; return what was done before the stop."""
    done: list[str] = []

    def prepare() -> str:
        done.append("saved")
        return "a note"

    try:
        with deferred() as waiting:
            for number in numbers:
                signal.raise_signal(number)
            done.append("first")
            if ask:
                waiting.stop_if_asked(prepare)
            done.append("second")
    except BaseException as error:
        return [*done, f"{type(error).__name__} {error}"]
    return done


def test_signal_waits_until_it_is_asked_for():
    stopped = deferring(signal.SIGTERM)
    assert stopped == ["first", "saved", "Terminated a note"]
    assert Terminated(signal.SIGTERM).code == 143


def test_ctrl_c_stays_a_keyboard_interrupt():
    stopped = deferring(signal.SIGINT)
    assert stopped == ["first", "saved", "KeyboardInterrupt a note"]


def test_nothing_is_prepared_without_a_signal():
    assert deferring() == ["first", "second"]


def test_signal_that_is_not_asked_for_is_not_lost():
    stopped = deferring(signal.SIGINT, ask=False)
    assert stopped == ["first", "second", "KeyboardInterrupt "]


def test_second_signal_does_not_wait():
    assert deferring(signal.SIGTERM, signal.SIGINT) == ["KeyboardInterrupt "]


def test_handlers_are_those_of_before_afterwards():
    before = signal.getsignal(signal.SIGTERM)
    with deferred():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_ignored_signals_stay_ignored():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with deferred():
        signal.raise_signal(signal.SIGTERM)


def test_other_threads_defer_nothing():
    before, inside = signal.getsignal(signal.SIGTERM), []

    def run():
        with deferred():
            inside.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert inside == [before]
