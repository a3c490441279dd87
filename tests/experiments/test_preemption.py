"""SIGTERM becomes a question that the run asks, and the process is as before afterwards."""

import os
import signal

from experiments.preemption import Preemption


def test_sigterm_is_remembered_while_open():
    before = signal.getsignal(signal.SIGTERM)
    with Preemption() as preemption:
        assert not preemption.reached()
        os.kill(os.getpid(), signal.SIGTERM)
        assert preemption.reached()
        assert preemption.reached()
    assert signal.getsignal(signal.SIGTERM) is before


def test_processes_ask_their_service_with_numbers_that_grow(monkeypatch):
    asked = []

    def service(number):
        asked.append(number)
        return number == 3

    monkeypatch.setattr("experiments.preemption.jax.process_count", lambda: 2)
    monkeypatch.setattr(
        "experiments.preemption.multihost_utils.reached_preemption_sync_point", service
    )
    preemption = Preemption()
    assert [preemption.reached() for _ in range(5)] == [False, False, True, True, True]
    assert asked == [1, 2, 3]
