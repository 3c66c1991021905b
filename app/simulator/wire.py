"""Decimals as the exchange writes them: always eight places. Inside, integers of 1e-8."""

from decimal import Decimal

ONE = 10**8
"""How many units make one."""


def fixed(units: int) -> str:
    """Write units with exactly eight places, as every price and quantity of the spot API."""
    if units < 0:
        return "-" + fixed(-units)
    return f"{units // ONE}.{units % ONE:08d}"


def parse_fixed(text: str) -> int:
    """Read a decimal into units. Raises ValueError when it is no finite number or finer than 1e-8."""
    try:
        value = Decimal(text)
    except ArithmeticError:
        raise ValueError(f"{text!r} is not a decimal") from None
    if not value.is_finite():
        raise ValueError(f"{text!r} is not a finite decimal")
    units = value * ONE
    if units != int(units):
        raise ValueError(f"{text!r} is finer than 0.00000001")
    return int(units)
