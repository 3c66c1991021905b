"""The published form of history: amounts as decimal strings, times as RFC 3339, unknown as None."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from typing import Any, Final

from app.domain.attribution import Explanation, Parts
from app.domain.candles import Candle
from app.domain.day_pnl import Change, DayPnl
from app.domain.decimals import format_decimal, format_units
from app.domain.performance import DIGITS, Drawdown, Performance
from app.domain.risk_ratios import PERIODS_PER_YEAR, calmar_ratio, sharpe_ratio, sortino_ratio, yearly_growth
from app.domain.statements import timestamp
from app.domain.trade_statistics import ClosedCycle, TradeStatistics
from app.domain.valuation import fraction

_SIX_PLACES: Final = Decimal(1).scaleb(-6)
_LARGEST_RATIO: Final = Decimal(10) ** 30


def candle_statement(candle: Candle) -> dict[str, Any]:
    """``PnlSample`` of the contract."""
    close = candle.close
    pnl, equity = close.pnl, close.equity
    return {
        "opened_at": timestamp(candle.opened_at),
        "at": timestamp(candle.at),
        "equity": _units(equity),
        "total_pnl": _units(None if close.unrealized_pnl is None else close.realized_pnl + close.unrealized_pnl),
        "realized_pnl": format_units(close.realized_pnl),
        "realized_pnl_gross": format_units(close.realized_pnl_gross),
        "fees": format_units(close.fees),
        "funding": format_units(close.funding),
        "unrealized_pnl": _units(close.unrealized_pnl),
        "fx_pnl": _units(close.fx_pnl),
        "net_deposits": format_units(close.net_deposits),
        "open": _units(candle.open),
        "high": _units(candle.high),
        "low": _units(candle.low),
        "close": _units(pnl),
        "is_complete": close.is_complete,
        "is_stale": close.is_stale,
    }


def day_statement(row: DayPnl) -> dict[str, Any]:
    """``DayPnlBody`` of the contract: a day that is not known has its bounds and nulls."""
    return {
        "day": row.day.day.isoformat(),
        "start": timestamp(row.day.start),
        "end": timestamp(row.day.end),
        **change_statement(row.change),
        "revision": row.revision,
    }


def change_statement(change: Change | None) -> dict[str, Any]:
    """A change in its parts."""
    amounts = ("pnl", "realized_pnl", "unrealized_change", "fees", "funding", "fx_pnl", "flows")
    if change is None:
        return {"from": None, "to": None, **dict.fromkeys(amounts), "pct": None, "is_complete": False}
    return {
        "from": timestamp(change.start),
        "to": timestamp(change.end),
        **{name: format_units(getattr(change, name)) for name in amounts},
        "pct": change.pct,
        "is_complete": change.is_complete,
    }


def parts_statement(parts: Parts, adjustments: int = 0) -> dict[str, Any]:
    """The parts of a change; ``total`` is their sum."""
    return {
        "price": format_units(parts.price),
        "trading": format_units(parts.trading),
        "fees": format_units(parts.fees),
        "funding": format_units(parts.funding),
        "fx": format_units(parts.fx),
        "adjustments": format_units(adjustments),
        "total": format_units(parts.total + adjustments),
    }


def explanation_statement(explanation: Explanation) -> list[dict[str, Any]]:
    """The rows by symbol."""
    return [{"symbol": symbol, **parts_statement(parts)} for symbol, parts in sorted(explanation.symbols.items())]


def trades_statement(statistics: TradeStatistics) -> dict[str, Any]:
    """``TradeStatisticsBody`` of the contract."""
    amounts = (
        "expectancy",
        "average_win",
        "average_loss",
        "largest_win",
        "largest_loss",
    )
    return {
        "closed_count": statistics.cycles,
        "win_count": statistics.wins,
        "loss_count": statistics.losses,
        "breakeven_count": statistics.breakevens,
        "net_pnl": format_units(statistics.net),
        "gross_win": format_units(statistics.gross_win),
        "gross_loss": format_units(statistics.gross_loss),
        "win_rate": _fraction(statistics.win_rate),
        "profit_factor": _fraction(statistics.profit_factor),
        **{name: _units(getattr(statistics, name)) for name in amounts},
        "average_hold_s": _seconds(statistics.average_hold),
        "longest_winning_streak": statistics.longest_winning_streak,
        "longest_losing_streak": statistics.longest_losing_streak,
        "current_streak": statistics.current_streak,
        "average_mae": _units(statistics.average_worst),
        "average_mfe": _units(statistics.average_best),
        "worst_mae": _units(statistics.worst),
        "best_mfe": _units(statistics.best),
    }


def cycle_statement(cycle: ClosedCycle) -> dict[str, Any]:
    """``PnlCycle`` of the contract."""
    return {
        "position_id": cycle.position_id,
        "account_id": cycle.account_id,
        "symbol": cycle.symbol,
        "opened_at": timestamp(cycle.opened_at),
        "closed_at": timestamp(cycle.closed_at),
        "hold_s": _seconds(cycle.closed_at - cycle.opened_at),
        "net_pnl": format_units(cycle.net),
        "mae": _units(cycle.worst),
        "mfe": _units(cycle.best),
        "efficiency": fraction(cycle.net, cycle.best) if cycle.best is not None and cycle.best > 0 else None,
    }


def performance_statement(
    performance: Performance | None, until: datetime, returns: Sequence[Decimal]
) -> dict[str, Any]:
    """``PerformanceBody`` of the contract: all null where nothing was sampled."""
    ratios = {
        "sharpe": _ratio(sharpe_ratio(returns)),
        "sortino": _ratio(sortino_ratio(returns)),
        "daily_returns": len(returns),
        "periods_per_year": PERIODS_PER_YEAR,
    }
    if performance is None:
        return {
            **dict.fromkeys(("twr", "twr_from", "cagr", "calmar")),
            "chain_breaks": 0,
            **ratios,
            **_drawdown_statement(None),
        }
    growth = calmar = None
    if performance.twr is not None and performance.chained_from is not None:
        duration = until - performance.chained_from
        growth = yearly_growth(performance.twr, duration)
        calmar = calmar_ratio(performance.twr, duration, performance.drawdown.maximum_pct)
    return {
        "twr": _ratio(performance.twr),
        "twr_from": None if performance.chained_from is None else timestamp(performance.chained_from),
        "cagr": _ratio(growth),
        "calmar": _ratio(calmar),
        "chain_breaks": performance.chain_breaks,
        **ratios,
        **_drawdown_statement(performance.drawdown),
    }


def _drawdown_statement(drawdown: Drawdown | None) -> dict[str, Any]:
    names = (
        "drawdown",
        "drawdown_pct",
        "max_drawdown",
        "max_drawdown_pct",
        "high_water_mark",
        "high_water_mark_at",
        "under_water_s",
        "longest_under_water_s",
    )
    if drawdown is None:
        return dict.fromkeys(names)
    return dict(
        zip(
            names,
            (
                format_units(drawdown.current),
                _ratio(drawdown.current_pct),
                format_units(drawdown.maximum),
                _ratio(drawdown.maximum_pct),
                format_units(drawdown.high_water_mark),
                timestamp(drawdown.high_water_mark_at),
                _seconds(drawdown.under_water),
                _seconds(drawdown.longest_under_water),
            ),
            strict=True,
        )
    )


def _units(value: int | None) -> str | None:
    return None if value is None else format_units(value)


def _ratio(value: Decimal | None) -> str | None:
    """A ratio to six places; None too where it is so large that it says nothing."""
    if value is None or abs(value) > _LARGEST_RATIO:
        return None
    return format_decimal(value.quantize(_SIX_PLACES, ROUND_HALF_EVEN, DIGITS))


def _fraction(value: Fraction | None) -> str | None:
    return None if value is None else _ratio(DIGITS.divide(Decimal(value.numerator), Decimal(value.denominator)))


def _seconds(duration: timedelta | None) -> int | None:
    return None if duration is None else duration // timedelta(seconds=1)
