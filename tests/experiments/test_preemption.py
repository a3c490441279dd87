"""SIGTERM becomes a question that the run asks, and the process is as before afterwards."""

import os
import signal

from experiments.preemption import AGREE_EVERY, Preemption


def test_sigterm_is_remembered_while_open():
    before = signal.getsignal(signal.SIGTERM)
    with Preemption() as preemption:
        assert not preemption.reached()
        os.kill(os.getpid(), signal.SIGTERM)
        assert preemption.reached()
        assert preemption.reached()
    assert signal.getsignal(signal.SIGTERM) is before


def test_processes_agree_at_every_tenth_call_and_for_good(monkeypatch):
    asked = []

    def anywhere(flag):
        asked.append(flag)
        return len(asked) == 2

    monkeypatch.setattr("experiments.preemption.jax.process_count", lambda: 2)
    monkeypatch.setattr("experiments.preemption.processes.anywhere", anywhere)
    preemption = Preemption()
    answers = [preemption.reached() for _ in range(25)]
    assert answers == [False] * AGREE_EVERY + [True] * (25 - AGREE_EVERY)
    assert asked == [False, False]
