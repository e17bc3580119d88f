"""Signals: the first one asks to save, its echo is no second one, a real second one stops at once."""

from __future__ import annotations

import signal

import pytest

from multistream.training import stop
from multistream.training.stop import stoppable


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_twice_is_one_request(number: signal.Signals) -> None:
    """As from Slurm and from torchrun, which passes it on."""
    with stoppable() as asked:
        signal.raise_signal(number)
        signal.raise_signal(number)
        assert asked()
    assert asked.signal == number


@pytest.mark.usefixtures("interruptible")
def test_a_second_request_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(stop, "ECHO", 0.0)
    with stoppable() as asked:
        signal.raise_signal(signal.SIGTERM)
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before
