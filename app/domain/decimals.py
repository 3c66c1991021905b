"""Exact numbers: how a decimal is read, kept, rounded once and written.

Amounts live as ``Decimal`` or as integers in *units* of 1e-18. The rule of the
whole system is **leaf rounding**: a published leaf figure (a market value, a
cost basis, a cash flow, a fee) is rounded once, half to even, to 1e-18, and
every sum above it is an exact sum of published leaves. So rows and totals add
up to the last digit on every screen.
"""

import re
from decimal import (
    ROUND_HALF_EVEN,
    Clamped,
    Context,
    Decimal,
    DivisionByZero,
    InvalidOperation,
    Overflow,
    getcontext,
    setcontext,
)

SCALE = 18
"""Decimal places of every published amount, and the most a client may send."""

UNITS = 10**SCALE
"""How many units make one."""

ZERO = Decimal(0)

STATE_QUANTUM = Decimal(1).scaleb(-36)
"""The finest step of ledger state: the product of two 18-place numbers is exact in it."""

_UNIT_QUANTUM = Decimal(1).scaleb(-SCALE)
_POWERS: tuple[int, ...] = tuple(10**places for places in range(SCALE + 1))

# 72 digits hold the product of two 36-digit numbers; the rest is room for sums
# over many of them and for the product that precedes a division.
_EXACT = Context(
    prec=160,
    rounding=ROUND_HALF_EVEN,
    Emin=-999_999,
    Emax=999_999,
    traps=[InvalidOperation, DivisionByZero, Overflow, Clamped],
)
# Half the time of the methods of Decimal, which are told the context each time.
_quantize, _scaleb = _EXACT.quantize, _EXACT.scaleb

# ASCII digits only: str.isdigit, \d and Decimal itself accept other scripts.
_PLAIN = re.compile(r"[0-9]{1,18}(?:\.[0-9]{1,18})?")
_PLAIN_SIGNED = re.compile(r"-?[0-9]{1,18}(?:\.[0-9]{1,18})?")


class exact:  # noqa: N801 - Used like a function: ``with exact():``.
    """Run a block of Decimal arithmetic with enough digits to lose none.

    A third of the time of ``localcontext``, which copies its context; nobody
    changes this one. Never ``yield`` or ``await`` inside: the caller would
    compute in it too.
    """

    __slots__ = ("_outside",)

    def __enter__(self) -> None:
        self._outside = getcontext()
        setcontext(_EXACT)

    def __exit__(self, *raised: object) -> None:
        setcontext(self._outside)


def parse_plain(text: str) -> Decimal:
    """Read an unsigned plain decimal: ASCII, at most 18 digits each side of the point.

    Raises:
        ValueError: for a sign, an exponent, NaN, Infinity, other digits or too many.
    """
    if _PLAIN.fullmatch(text) is None:
        raise ValueError("not a plain decimal of at most 18 digits before and 18 after the point")
    return Decimal(text)


def parse_positive(text: str) -> Decimal:
    """Read a plain decimal greater than zero. Raises ValueError as :func:`parse_plain`."""
    value = parse_plain(text)
    if not value:
        raise ValueError("must be greater than zero")
    return value


def parse_signed(text: str) -> Decimal:
    """Read a plain decimal that may be negative (a rebate). Raises ValueError."""
    if _PLAIN_SIGNED.fullmatch(text) is None:
        raise ValueError("not a plain decimal of at most 18 digits before and 18 after the point")
    return Decimal(text) or ZERO  # -0 is 0; adding would round to the context's 28 digits


def quantize_state(value: Decimal) -> Decimal:
    """Bring a quotient to the resolution of ledger state (1e-36)."""
    return value.quantize(STATE_QUANTUM, context=_EXACT)


def to_units(value: Decimal) -> int:
    """Round half to even to 1e-18 and give the integer number of units."""
    return int(_scaleb(_quantize(value, _UNIT_QUANTUM), SCALE)) if value else 0


def published(value: Decimal) -> str:
    """A leaf as it is published: rounded half to even to 1e-18, written plainly."""
    if not value:
        return "0"
    text = format_decimal(value)
    if len(text) - text.find(".") > SCALE + 1 and "." in text:
        return format_decimal(value.quantize(_UNIT_QUANTUM, context=_EXACT))
    return text


def published_units(text: str) -> int:
    """The units of a leaf as it was published, which is a third of the time of reading a decimal."""
    if text == "0":
        return 0
    whole, _, fraction = text.partition(".")
    return int(whole + fraction) * _POWERS[SCALE - len(fraction)]


def convert_units(units: int, rate: Decimal) -> int:
    """An amount in units of 1e-18 at a rate, rounded once, half to even, to units of the other currency."""
    numerator, denominator = rate.as_integer_ratio()
    quotient, rest = divmod(units * numerator, denominator)
    twice = 2 * rest
    return quotient + (twice > denominator or (twice == denominator and quotient % 2 == 1))


def from_units(units: int) -> Decimal:
    """The decimal that an integer number of 1e-18 units stands for."""
    return Decimal(units).scaleb(-SCALE, context=_EXACT)


def format_units(units: int) -> str:
    """Write units as a plain decimal: no exponent, no trailing zeros, no negative zero."""
    if not units:
        return "0"
    # By cutting the digits, which is a third faster than dividing: a frame has a dozen of these.
    sign, digits = ("-", str(-units)) if units < 0 else ("", str(units))
    digits = digits.zfill(SCALE + 1)
    fraction = digits[-SCALE:].rstrip("0")
    return f"{sign}{digits[:-SCALE]}.{fraction}" if fraction else sign + digits[:-SCALE]


def format_decimal(value: Decimal) -> str:
    """Write a finite decimal plainly: no exponent, no trailing zeros, no negative zero."""
    text = f"{value:f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
