"""How quantities are written in every report: three significant digits, one space, the unit.

Bytes are counted in powers of 1024 and say so; the 44.6 MB by which papers call ResNet-18's float32
weights are 44.6 MiB.
"""

import math


def digits(value: float) -> str:
    """Three significant digits, never with an exponent.

    >>> digits(0.0123456), digits(9.996), digits(1234.5), digits(float("nan"))
    ('0.0123', '10.0', '1230', 'nan')
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:.0f}"
    value = float(f"{value:.2e}")
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def _scaled(value: float, base: int, units: tuple[str, ...]) -> str:
    for unit in units[:-1]:
        if not float(f"{value:.2e}") >= 1000:  # NaN stops here too
            return f"{digits(value)} {unit}"
        value /= base
    return f"{digits(value)} {units[-1]}"


def count(value: float) -> str:
    """A number of parameters or operations.

    >>> count(96), count(272474), count(999_999), count(4.09e9)
    ('96', '272 k', '1.00 M', '4.09 G')
    """
    return f"{value:.0f}" if value < 1000 else _scaled(value / 1000, 1000, ("k", "M", "G", "T"))


def size(value: float) -> str:
    """A number of bytes.

    >>> size(12), size(46_758_048)
    ('12.0 B', '44.6 MiB')
    """
    return _scaled(value, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))


def milliseconds(seconds: float) -> str:
    """A latency.

    >>> milliseconds(0.000412)
    '0.412 ms'
    """
    return f"{digits(seconds * 1e3)} ms"


def duration(seconds: float) -> str:
    """How long a stage took.

    >>> duration(7.26), duration(59.96), duration(192), duration(7500)
    ('7.3 s', '1 min 00 s', '3 min 12 s', '2 h 05 min')
    """
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def percent(fraction: float) -> str:
    """An accuracy.

    >>> percent(0.91534)
    '91.53%'
    """
    return f"{fraction:.2%}"


def points(difference: float) -> str:
    """A difference of two fractions in percentage points.

    >>> points(-0.0041), points(0.002)
    ('-0.41 points', '+0.20 points')
    """
    return f"{100 * difference:+.2f} points"


def ratio(value: float) -> str:
    """A quotient to a baseline.

    >>> ratio(0.534), ratio(1), ratio(0.0421)
    ('0.53x', '1.00x', '0.042x')
    """
    return f"{value:.2f}x" if value >= 0.1 or value == 0 else f"{value:.2g}x"
