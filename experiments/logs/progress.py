"""How far a stage is: a bar in a terminal, a plain line now and then in a log file.

train  1200/4690  26%  loss 0.412  2310 samples/s  ETA 1m 32s
"""

import time
from collections.abc import Callable
from typing import Any, TextIO

from tqdm import tqdm

BAR_SECONDS = 0.25
LINE_SECONDS = 10.0


class Progress:
    """Shows step, loss, samples/s since the last showing, and the time still needed.

    The first update starts the clock: the step before it was mostly compilation.

    Args:
        total: the number of steps at the end.
        label: what is running.
        step: the number of steps done before.
        stream: where to show it; None shows nothing.
        clock: a clock in seconds.
    """

    def __init__(
        self,
        total: int,
        label: str,
        step: int = 0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total, self._label, self._stream, self._clock = total, label, stream, clock
        self._bar: Any = None
        self._every = LINE_SECONDS
        if stream is not None and stream.isatty():
            # The times in tqdm's own format would count the compilation.
            shape = "{desc} |{bar:16}| {n_fmt}/{total_fmt} {percentage:.0f}%{postfix}"
            self._bar = tqdm(
                total=total, desc=label, initial=step, file=stream, bar_format=shape,
                dynamic_ncols=True, mininterval=0,
            )  # fmt: skip
            self._every = BAR_SECONDS
        self._start: tuple[float, int] | None = None  # time and step of the first update
        self._shown = (0.0, 0)  # time and samples of the last showing
        self._samples = 0

    def update(self, step: int, *, loss: Any, samples: int) -> None:
        """Says that `step` steps are done, the last with this `loss` on this many `samples`.

        `loss` is read, and so waited for, only when it is shown.
        """
        if self._stream is None:
            return
        now = self._clock()
        if self._start is None:
            self._start, self._shown = (now, step), (now, 0)
            self._show(step, f"loss {float(loss):.4g}")
            return
        self._samples += samples
        if step < self._total and now - self._shown[0] < self._every:
            return
        began, first = self._start
        rate = (self._samples - self._shown[1]) / max(now - self._shown[0], 1e-9)
        left = (self._total - step) * (now - began) / max(step - first, 1)
        digits = 0 if rate >= 10 else 1
        text = f"loss {float(loss):.4g}  {rate:.{digits}f} samples/s  ETA {_clock_face(left)}"
        self._shown = (now, self._samples)
        self._show(step, text)

    def _show(self, step: int, text: str) -> None:
        assert self._stream is not None
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.n = step
            self._bar.refresh()
        else:
            percent = f"{step / self._total:.0%}"
            print(
                f"{self._label}  {step}/{self._total}  {percent}  {text}",
                file=self._stream, flush=True,
            )  # fmt: skip

    def close(self) -> None:
        """Ends the bar's line."""
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def _clock_face(seconds: float) -> str:
    """Hours and minutes, or minutes and seconds, or seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {seconds:02d}s" if minutes else f"{seconds}s"
