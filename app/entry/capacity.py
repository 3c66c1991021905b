"""``run.py capacity``: how much hardware a load needs. The costs are in ``capacity_costs.json`` beside this file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from app.domain.capacity import MOST_FLUSH_MS, MOST_LOAD, Costs, Load, Plan, plan
from app.supervision.problems import CONFIGURATION_EXIT_CODE, StartProblem

_WIDTH: Final = 130
"""Of tables where there is no terminal to ask."""

COSTS_PATH: Final = Path(__file__).with_name("capacity_costs.json")


class Recorded(msgspec.Struct, frozen=True):
    """A measured run: what it was asked for, with how many web processes, and what it used."""

    profile: str
    load: Load
    web_workers: int
    measured: dict[str, float]
    """By name of the figure in :class:`Plan`."""


class CostTable(msgspec.Struct, frozen=True):
    """Measured costs, where they come from, and the runs to hold the model against."""

    machine: str
    costs: Costs
    sources: dict[str, str]
    recorded: list[Recorded]


def read_costs(path: Path = COSTS_PATH) -> CostTable:
    """The table of a file. Raises StartProblem."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=CostTable)
    except (OSError, msgspec.MsgspecError) as error:
        raise StartProblem(f"{path.name} is no table of costs: {error}", exit_code=CONFIGURATION_EXIT_CODE) from None


def print_plan(load: Load, *, check: bool, as_json: bool) -> None:
    """Show what a load needs. Raises StartProblem for one that cannot be reckoned with."""
    table = read_costs()
    try:
        found = plan(load, table.costs)
    except ValueError as error:
        raise StartProblem(str(error), exit_code=CONFIGURATION_EXIT_CODE) from None
    if as_json:
        Console(highlight=False, soft_wrap=True).print_json(
            msgspec.json.encode({**msgspec.structs.asdict(found), "limits": found.limits}).decode()
        )
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH)
    console.print(f"Costs measured on {table.machine}")
    console.print(_plan_table(load, found))
    for limit in found.limits:
        console.print(f"  beyond this version: {limit}", style="yellow")
    if check:
        console.print(_check_table(table))


def differences(table: CostTable) -> Iterator[tuple[str, str, float, float]]:
    """Profile, figure, what the model says, what was measured."""
    for run in table.recorded:
        found = plan(run.load, table.costs, web_workers=run.web_workers)
        for figure, measured in run.measured.items():
            yield run.profile, figure, getattr(found, figure), measured


def _plan_table(load: Load, found: Plan) -> Table:
    holders = load.users if load.holders is None else load.holders
    title = (
        f"{load.users:,} users at {load.hz:g} Hz; {holders:,} with {load.positions} positions; "
        f"{load.symbols:,} symbols, {load.ticks_per_s:,} ticks/s"
    )
    table = Table(title=title, title_justify="left")
    for heading in ("part", "processes", "cores, average", "memory", "what it does"):
        table.add_column(heading, justify="left" if heading in {"part", "what it does"} else "right")
    frames = f"{found.frames_per_s:,.0f} frames/s of {_size(found.bytes_per_frame)}"
    table.add_row(
        "web",
        f"{found.web_workers:,}",
        f"{found.web_cores:.2f}",
        _size(found.web_bytes),
        f"{frames}, {_size(found.client_bytes_per_s)}/s to clients",
    )
    table.add_row(
        "P&L workers (shards)",
        f"{found.pnl_shards:,}",
        f"{found.pnl_cores:.2f}",
        _size(found.pnl_bytes),
        f"{load.all_positions:,} positions; a killed one is replaced in {found.takeover_s:.0f} s"
        f" by a standby of {_size(found.standby_bytes)}, in {found.cold_takeover_s:.0f} s by one that keeps no book",
    )
    table.add_row(
        "price worker", "1", f"{found.price_cores:.2f}", "", f"{found.prices_per_flush:,.0f} prices in each flush"
    )
    table.add_row(
        "Redis",
        f"{found.redis_servers:,}",
        f"{found.redis_cores:.2f}",
        _size(found.redis_bytes),
        f"{_size(found.redis_output_bytes_per_s)}/s out, {_size(found.redis_price_bytes_per_s)}/s of them prices",
    )
    table.add_row("PostgreSQL", "1", "", "", "leases, logins and fills; nothing per tick")
    table.caption = (
        f"{found.cores:,} cores besides PostgreSQL and standbys, each at most {MOST_LOAD:.0%} busy; "
        f"P&L work at most {MOST_FLUSH_MS:g} ms a flush"
    )
    return table


def _check_table(table: CostTable) -> Table:
    shown = Table(title="The model against the runs that were measured", title_justify="left")
    for heading in ("profile", "figure", "model", "measured", "model/measured"):
        shown.add_column(heading, justify="left" if heading in {"profile", "figure"} else "right")
    for profile, figure, said, measured in differences(table):
        ratio = f"{said / measured:.2f}" if measured else "–"
        shown.add_row(profile, figure, f"{said:,.3g}", f"{measured:,.3g}", ratio)
    return shown


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"
