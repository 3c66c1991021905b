"""``run.py value``: what the fills of a file are worth."""

import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.entry.value import Request, value_file
from app.supervision.problems import StartProblem

PROJECT = Path(__file__).parents[2]
HEADER = "symbol,side,quantity,price,fee,fee_asset,executed_at,trade_id,position_side,strategy\n"

Value = Callable[..., Any]


@pytest.fixture
def value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Value:
    """Values rows of a CSV with HEADER and gives the JSON that is printed."""

    def print_json(*rows: str, **request: Any) -> Any:
        path = tmp_path / "fills.csv"
        path.write_text(HEADER + "".join(f"{row}{',' * (9 - row.count(','))}\n" for row in rows), encoding="utf-8")
        value_file(Request(path=path, as_json=True, **request))
        return json.loads(capsys.readouterr().out)

    return print_json


def test_it_gives_the_state_after_each_fill(value: Value) -> None:
    printed = value("BTCUSDT,buy,1,100,0.5", "BTCUSDT,sell,3,110,0.6", marks=("90", "120"))

    (position,) = printed["positions"]
    assert (position["symbol"], position["settle_asset"], position["marks"]) == ("BTCUSDT", "USDT", ["90", "120"])
    assert [state["row"] for state in position["states"]] == [2, 3]
    last = position["states"][-1]
    expected = {
        "side": "sell",
        "quantity": "3",
        "price": "110",
        "signed_qty": "-2",
        "entry_price": "110",
        "break_even_price": "109.8",
        "cost_basis": "-220",
        "realized_pnl_gross": "10",
        "fees": "1.1",
        "realized_pnl": "8.9",
        "unrealized_pnl": ["40", "-20"],
        "total_pnl": ["48.9", "-11.1"],
    }
    assert {name: last[name] for name in expected} == expected
    assert position["last"].items() <= last.items()
    assert printed["totals"]["USDT"] == {
        "realized_pnl_gross": "10",
        "fees": "1.1",
        "realized_pnl": "8.9",
        "unrealized_pnl": ["40", "-20"],
        "is_complete": True,
    }


def test_symbols_legs_and_strategies_are_positions_of_their_own(value: Value) -> None:
    printed = value(
        "BTCUSDT,buy,1,100,,,,,long",
        "BTCUSDT,sell,1,120,,,,,short",
        "ETHUSDT,buy,2,10,,,,,,grid",
        "ETHUSDT,buy,3,10",
        marks=("BTCUSDT=110", "ETHUSDT=12"),
    )

    found = [
        (position["symbol"], position["position_side"], position["strategy"], position["last"]["unrealized_pnl"])
        for position in printed["positions"]
    ]
    assert found == [
        ("BTCUSDT", "long", None, ["10"]),
        ("BTCUSDT", "short", None, ["10"]),
        ("ETHUSDT", "net", None, ["6"]),
        ("ETHUSDT", "net", "grid", ["4"]),
    ]
    assert printed["totals"]["USDT"]["unrealized_pnl"] == ["30"]


def test_late_rows_are_put_in_their_place(value: Value) -> None:
    printed = value(
        "BTCUSDT,sell,1,120,,,2024-01-03T00:00:00Z",
        "BTCUSDT,buy,1,100,,,2024-01-01T00:00:00Z",
        "BTCUSDT,buy,1,110,,,1704153600000",
    )

    assert [state["row"] for state in printed["positions"][0]["states"]] == [3, 4, 2]
    assert printed["positions"][0]["last"]["realized_pnl"] == "15"


@pytest.mark.parametrize(("method", "realized"), [("average", "15"), ("fifo", "20"), ("lifo", "10")])
def test_the_method_splits_profit_and_says_which_lots_it_consumed(value: Value, method: str, realized: str) -> None:
    printed = value(
        "BTCUSDT,buy,1,100,,,,a", "BTCUSDT,buy,1,110,,,,b", "BTCUSDT,sell,1,120,,,,c", method=method, marks=("120",)
    )

    last = printed["positions"][0]["states"][-1]
    assert (last["realized_pnl"], last["total_pnl"]) == (realized, ["30"])
    (lot,) = last["lots_consumed"]
    assert lot["opened_by"] == ("b" if method == "lifo" else "a")
    assert lot["realized_pnl_gross"] == realized


def test_a_repeated_trade_counts_once(value: Value) -> None:
    printed = value("BTCUSDT,buy,1,100,,,,7", "ETHUSDT,buy,1,100,,,,7", "BTCUSDT,buy,1,100,,,,7")

    assert printed["repeated_fills"] == 1
    assert [position["fills"] for position in printed["positions"]] == [1, 1]


def test_a_fee_without_a_rate_makes_the_sum_incomplete(value: Value) -> None:
    printed = value("BTCUSDT,buy,1,100,0.1,BNB")

    assert printed["positions"][0]["last"]["fees_unpriced"] == {"BNB": "0.1"}
    assert printed["totals"]["USDT"]["is_complete"] is False


def test_a_holding_without_a_mark_leaves_the_sum_unknown(value: Value) -> None:
    printed = value("BTCUSDT,buy,1,100", "ETHUSDT,buy,1,100", marks=("BTCUSDT=110",))

    assert printed["totals"]["USDT"]["unrealized_pnl"] is None


def test_a_summary_has_only_the_end(value: Value) -> None:
    (position,) = value("BTCUSDT,buy,1,100", "BTCUSDT,sell,1,110", each=False)["positions"]

    assert (position["states"], position["fills"], position["last"]["realized_pnl"]) == ([], 2, "10")


def test_an_empty_file_is_worth_nothing(value: Value) -> None:
    assert value() == {"method": "average", "positions": [], "totals": {}, "repeated_fills": 0}


@pytest.mark.parametrize(
    ("rows", "request_", "message"),
    [
        (["BTCUSDT,buy,0,1", "BTCUSDT,hold,1,1"], {}, r"row 2: quantity.*\nrow 3: side"),
        (
            ["BTCUSDT,buy,1,1,,,,7", "BTCUSDT,buy,2,1,,,,7"],
            {},
            "row 3: trade_id 7 was another fill of BTCUSDT in row 2",
        ),
        (["BTCUSDT,buy,1,1,,,,,long", "BTCUSDT,sell,2,1,,,,,long"], {}, "row 3: the long leg does not hold that much"),
        (["BTCUSDT,buy,1,1", "ETHUSDT,buy,1,1"], {"marks": ("5",)}, "--mark 5: .*SYMBOL=PRICE"),
        (["BTCUSDT,buy,1,1"], {"marks": ("ETHUSDT=5",)}, "--mark ETHUSDT=5: ETHUSDT is not in the file"),
        (["BTCUSDT,buy,1,1"], {"marks": ("-5",)}, "--mark -5: not a plain decimal"),
        (["BTCUSDT,buy,1,1"], {"terms": {"market": "moon"}}, "row 2: market: 'moon'"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_else(
    value: Value, capsys: pytest.CaptureFixture[str], rows: list[str], request_: dict[str, Any], message: str
) -> None:
    with pytest.raises(StartProblem, match=message):
        value(*rows, **request_)
    assert capsys.readouterr().out == ""


def test_many_wrong_rows_are_not_all_listed(value: Value) -> None:
    with pytest.raises(StartProblem) as raised:
        value(*["BTCUSDT,buy,0,1"] * 100)

    assert len(str(raised.value).splitlines()) == 21


def test_a_long_file_takes_no_more_memory_than_a_short_one(value: Value) -> None:
    """Negative control: holding the fills of the longer file would take some ten megabytes."""

    def most_memory(count: int) -> int:
        rows = [f"BTCUSDT,{'buy' if place % 3 else 'sell'},1,{100 + place % 7},0.1,,,{place}" for place in range(count)]
        tracemalloc.start()
        try:
            value(*rows, each=False)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert most_memory(20_000) - most_memory(2_000) < 6_000_000


def test_the_table_shows_whole_figures_on_any_screen(tmp_path: Path) -> None:
    path = tmp_path / "fills.csv"
    path.write_text(
        "symbol,side,quantity,price,fee,fee_asset\n"
        "BTCUSDT,buy,0.123456789012345678,65432.123456789,0.1,BNB\n"
        "BTCUSDT,sell,0.1,65433.987654321,0,\n",
        encoding="utf-8",
    )
    command = [sys.executable, str(PROJECT / "run.py"), "value", "fills.csv", "--mark", "70000", "--method", "fifo"]

    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "COLUMNS": "60"}, capture_output=True, text=True, check=True
    )

    figures = (
        "0.1864197532",
        "0.023456789012345678",
        "107.147716308543342425",
        "70000",
        "0.1 BNB of fees have no rate",
    )
    assert [figure for figure in figures if figure not in done.stdout] == []
    assert "…" not in done.stdout


def test_a_problem_is_one_line_on_stderr(tmp_path: Path) -> None:
    command = [sys.executable, str(PROJECT / "run.py"), "value", "none.csv"]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "none.csv" in done.stderr
