"""Tidemark's one entry: everything on one machine, or one process of it."""

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

PROJECT = Path(__file__).resolve().parent
sys.path.insert(0, str(PROJECT))

try:
    import typer
except ModuleNotFoundError as error:
    sys.exit(f"tidemark: {error.name} is not installed: run `make run`, or .venv/bin/python run.py after `make setup`")

from app.supervision.problems import StartProblem  # noqa: E402

CALLED_FROM = Path.cwd()


def from_caller(path: Path | None) -> Path | None:
    """A path given at the command line, whatever folder the rest then runs in."""
    return None if path is None else CALLED_FROM / path


cli = typer.Typer(
    help="Real-time multi-user P&L streaming. Without a command: all.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Port = Annotated[int | None, typer.Option(help="Where to serve (TIDEMARK_PORT, 8000).", min=1, max=65535)]
Host = Annotated[str | None, typer.Option(help="On which address (TIDEMARK_HOST, 127.0.0.1).")]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Where embedded servers and logs live (TIDEMARK_DATA_DIR, .tidemark).", callback=from_caller),
]


@cli.command("all")
def run_all(
    *,
    port: Port = None,
    host: Host = None,
    data_dir: DataDir = None,
    workers: Annotated[int | None, typer.Option(help="Web processes (TIDEMARK_WEB_WORKERS).", min=1, max=64)] = None,
    demo: Annotated[bool, typer.Option("--demo", help="Simulated prices and a demo trader.")] = False,
    simulator_port: Annotated[
        int | None, typer.Option(help="Where the demo's exchange listens (any free port).", min=1, max=65535)
    ] = None,
    no_page: Annotated[bool, typer.Option("--no-page", help="Start although the page is not built.")] = False,
) -> None:
    """Run everything on this machine; servers that no URL is given for are brought along."""
    from app.entry.configuration import load_settings
    from app.entry.one_machine import Plan, run_one_machine
    from app.supervision.screen import Screen

    settings = load_settings(
        port=port, host=host, data_dir=data_dir, web_workers=workers, simulator_port=simulator_port
    )
    page = None if no_page else PROJECT / "web" / "dist" / "index.html"
    run_one_machine(Plan(settings, is_demo=demo, page=page), Screen())


@cli.command()
def web(port: Port = None, host: Host = None) -> None:
    """Serve the API, the stream and the page; needs DATABASE_URL and REDIS_URL."""
    from app.entry.configuration import load_settings
    from app.entry.web import serve

    serve(load_settings(port=port, host=host))


@cli.command("price-worker")
def price_worker() -> None:
    """Follow the exchange and publish prices; several stand by for one another."""
    from app.entry import price_worker as entry
    from app.entry.configuration import load_settings

    entry.main(load_settings())


@cli.command("pnl-worker")
def pnl_worker(
    shards: Annotated[
        int | None, typer.Option(help="Into how many parts users are split (TIDEMARK_PNL_SHARDS).", min=1, max=64)
    ] = None,
) -> None:
    """Value users' positions and publish the results; each part needs one of these, more stand by for any."""
    from app.entry import pnl_worker as entry
    from app.entry.configuration import load_settings

    entry.main(load_settings(pnl_shards=shards))


@cli.command()
def simulator(
    port: Annotated[int | None, typer.Option(help="TIDEMARK_SIMULATOR_PORT, 9100.", min=1, max=65535)] = None,
    host: Annotated[str, typer.Option(help="On which address.")] = "127.0.0.1",
) -> None:
    """Run the local exchange, which speaks Binance's protocol."""
    from app.entry import simulator as entry
    from app.entry.configuration import load_settings

    entry.main(load_settings(simulator_port=port), host=host)


@cli.command()
def migrate(data_dir: DataDir = None) -> None:
    """Bring the database to this version's schema."""
    from app.entry.configuration import load_settings
    from app.entry.migrations import migrate_configured

    migrate_configured(load_settings(data_dir=data_dir))


@cli.command()
def check(data_dir: DataDir = None) -> None:
    """Show the settings in effect, secrets left out, and whether what they name answers."""
    from app.entry.check import check_settings
    from app.entry.configuration import load_settings

    check_settings(load_settings(data_dir=data_dir))


@cli.command()
def reconcile(
    user: Annotated[str | None, typer.Option(help="Only this user, by name or id.")] = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Report what is wrong, and change nothing.")] = False,
) -> None:
    """Hold positions and the P&L cache against the fills, and put right what differs. Exits with 3 if anything did."""
    from app.entry.configuration import load_settings
    from app.entry.reconcile import reconcile_configured

    sys.exit(reconcile_configured(load_settings(), user=user, is_dry_run=dry_run))


@cli.command()
def value(
    file: Annotated[
        Path, typer.Argument(help="Fills as CSV or JSON; columns: see docs/accounting.md.", callback=from_caller)
    ],
    mark: Annotated[
        list[str] | None, typer.Option(help="A price to value at, or SYMBOL=PRICE; may be repeated.")
    ] = None,
    *,
    method: Annotated[
        Literal["average", "fifo", "lifo"], typer.Option(help="Which lots a closing fill consumes.")
    ] = "average",
    market: Annotated[
        Literal["spot", "linear", "inverse"] | None, typer.Option(help="What all symbols are (spot).")
    ] = None,
    multiplier: Annotated[str | None, typer.Option(help="Contract size, for all symbols.")] = None,
    base: Annotated[str | None, typer.Option(help="Base asset, where the symbol does not tell.")] = None,
    quote: Annotated[str | None, typer.Option(help="Quote asset, where the symbol does not tell.")] = None,
    settle: Annotated[str | None, typer.Option(help="Settle asset, where it is neither quote nor base.")] = None,
    summary: Annotated[bool, typer.Option("--summary", help="Only what each position is in the end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """Value the fills of a file: positions, realised and unrealised P&L. Needs no server."""
    from app.entry.value import Request, value_file

    terms = {"market": market, "multiplier": multiplier, "base": base, "quote": quote, "settle": settle}
    value_file(
        Request(
            path=file,
            marks=tuple(mark or ()),
            method=method,
            terms={name: term for name, term in terms.items() if term is not None},
            each=not summary,
            as_json=as_json,
        )
    )


@cli.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="Fills; formats: see docs/import-export.md.", callback=from_caller)],
    user: Annotated[str, typer.Option(help="Whose fills they are.")],
    *,
    account: Annotated[str | None, typer.Option(help="Account, by name or id (the default one).")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, book nothing.")] = False,
    format_: Annotated[
        Literal["generic", "binance_spot", "binance_futures", "binance_spot_rest", "binance_futures_rest", "ccxt"]
        | None,
        typer.Option("--format", help="What the file is (found by its columns)."),
    ] = None,
    strategy: Annotated[str, typer.Option(help="Tag of fills that have none.")] = "",
    utc_offset: Annotated[int, typer.Option(help="Minutes from UTC of times without a zone.", min=-900, max=900)] = 0,
    fees: Annotated[Literal["positive", "negative"], typer.Option(help="How the file writes a fee paid.")] = "positive",
    skip_errors: Annotated[bool, typer.Option("--skip-errors", help="Book the rows that are right.")] = False,
    errors: Annotated[Path | None, typer.Option(help="Write what is wrong as CSV.", callback=from_caller)] = None,
    data_dir: DataDir = None,
) -> None:
    """Import a file of fills for a user: all of it or nothing."""
    from app.domain.imports import StoredTerms
    from app.entry.configuration import load_settings
    from app.entry.import_fills import ImportRequest, import_fills

    terms = StoredTerms(
        format=format_,
        strategy=strategy,
        utc_offset_minutes=utc_offset,
        paid_is_negative=fees == "negative",
        skip_errors=skip_errors,
    )
    request = ImportRequest(path=file, username=user, account=account, is_dry_run=dry_run, terms=terms, errors=errors)
    import_fills(load_settings(data_dir=data_dir), request)


@cli.command()
def export(
    table: Annotated[Literal["trades", "positions", "pnl"], typer.Argument(help="What to write.")],
    user: Annotated[str, typer.Option(help="Of whom.")],
    *,
    account: Annotated[str | None, typer.Option(help="One account only, by name or id.")] = None,
    format_: Annotated[Literal["csv", "json", "parquet"], typer.Option("--format", help="Kind of file.")] = "csv",
    since: Annotated[datetime | None, typer.Option("--from", help="From this time on (UTC).")] = None,
    until: Annotated[datetime | None, typer.Option("--to", help="Before this time (UTC).")] = None,
    output: Annotated[Path | None, typer.Option(help="Where to (standard output).", callback=from_caller)] = None,
    data_dir: DataDir = None,
) -> None:
    """Write a user's trades, positions or P&L into a file."""
    from app.entry.configuration import load_settings
    from app.entry.export import ExportRequest
    from app.entry.export import export as write

    request = ExportRequest(
        table=table,
        username=user,
        file_format=format_,
        since=None if since is None else since.replace(tzinfo=UTC),
        until=None if until is None else until.replace(tzinfo=UTC),
        account=account,
        output=output,
    )
    write(load_settings(data_dir=data_dir), request)


@cli.command()
def bench(
    profile: Annotated[
        str, typer.Option(help="smoke, 1k, 5k, 10k, 25k; 5k-busy: 20,000 ticks/s; 5k@2: at 2 Hz; several with commas.")
    ] = "1k,5k",
    part: Annotated[
        str, typer.Option(help="system, ticks, ingest, flush, book, frames, takeover; several with commas.")
    ] = "system",
    *,
    ticks: Annotated[int | None, typer.Option(help="Ticks per second.", min=1, max=20_000)] = None,
    symbols: Annotated[int | None, typer.Option(help="Symbols that are held and watched.", min=10)] = None,
    positions: Annotated[int | None, typer.Option(help="Open positions of each user.", min=1)] = None,
    hz: Annotated[float | None, typer.Option(help="Most updates per second for each user.", min=0.1, max=50)] = None,
    workers: Annotated[int | None, typer.Option(help="Web processes.", min=1, max=64)] = None,
    seconds: Annotated[float | None, typer.Option(help="How long to measure.", min=1, max=30)] = None,
    no_baselines: Annotated[bool, typer.Option("--no-baselines", help="Leave out what others would cost.")] = False,
    python_client: Annotated[bool, typer.Option("--python-client", help="Do without the compiled client.")] = False,
    output: Annotated[Path | None, typer.Option(help="Write the results as JSON.", callback=from_caller)] = None,
    compare: Annotated[Path | None, typer.Option(help="Results of an earlier run.", callback=from_caller)] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Also print a table for a README.")] = False,
    costs: Annotated[
        Path | None,
        typer.Option(help="Write what this run says of costs, for run.py capacity.", callback=from_caller),
    ] = None,
) -> None:
    """Measure the whole system under load, or its parts. Takes the machine for itself."""
    from app.entry.bench import run_bench

    changes = {
        "ticks_per_s": ticks,
        "symbols": symbols,
        "positions": positions,
        "hz": hz,
        "web_workers": workers,
        "measure_s": seconds,
    }
    run_bench(
        parts=part,
        profiles=profile,
        changes=changes,
        baselines=not no_baselines,
        native=not python_client,
        output=output,
        compare=compare,
        markdown=markdown,
        costs=costs,
    )


@cli.command()
def capacity(
    users: Annotated[int, typer.Option(help="Connected at once.")],
    hz: Annotated[float, typer.Option(help="Updates a second for each.")] = 10.0,
    positions: Annotated[int, typer.Option(help="Open positions of each.")] = 10,
    watched: Annotated[int, typer.Option(help="Symbols that each watches.")] = 10,
    symbols: Annotated[int, typer.Option(help="Symbols that are held or watched.")] = 2_000,
    ticks: Annotated[int, typer.Option(help="Ticks per second of all symbols together.")] = 2_500,
    holders: Annotated[int | None, typer.Option(help="Users with positions, connected or not (as many).")] = None,
    *,
    check: Annotated[bool, typer.Option("--check", help="Also hold the model against measured runs.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of tables.")] = False,
) -> None:
    """Say how many processes, cores and bytes a load needs, from measured costs. Needs no server."""
    from app.domain.capacity import Load
    from app.entry.capacity import print_plan

    load = Load(
        users=users,
        hz=hz,
        positions=positions,
        watched=watched,
        symbols=symbols,
        ticks_per_s=ticks,
        holders=holders,
    )
    print_plan(load, check=check, as_json=as_json)


def main() -> None:
    """Run a command; a problem is one line on stderr and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character shows another.
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    # The .env file, gunicorn.conf.py and the default data folder are the project's, wherever it is called from.
    os.chdir(PROJECT)
    arguments = sys.argv[1:]
    # Without a command: all, also with options.
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in {"-h", "--help"}):
        arguments = ["all", *arguments]
    try:
        cli(arguments)
    except StartProblem as problem:
        sys.stderr.write("".join(f"tidemark: {line}\n" for line in str(problem).splitlines()))
        sys.exit(problem.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
