"""``run.py value FILE``: values the fills of a file, without a server.

The same arithmetic as everywhere (:mod:`app.domain.ledger`, :mod:`app.domain.lots`),
a few rows at a time: a file of any length needs little memory.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, TextIO

import msgspec

from app.domain.decimals import parse_positive
from app.domain.instruments import Instrument
from app.domain.ledger import ContradictoryFill, Fill
from app.domain.lots import Disposal, LotBook, Method
from app.domain.text_tables import FileProblem
from app.entry.fill_spool import FillSpool
from app.entry.fills_file import FillReader, RowProblem, read_rows
from app.entry.value_report import JsonReport, Report, TableReport, Totals, publish
from app.supervision.problems import StartProblem

_MOST_PROBLEMS = 20
_IN_MEMORY = 1 << 24


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line asks for.

    ``marks`` are ``PRICE`` or ``SYMBOL=PRICE``; ``terms`` what the columns
    market to settle are where the file does not say. ``each`` is whether the
    state after each fill is wanted, or the last one only.
    """

    path: Path
    marks: tuple[str, ...] = ()
    method: Method = "average"
    terms: dict[str, str] = {}
    each: bool = True
    as_json: bool = False


def value_file(request: Request) -> None:
    """Print what the fills of a file are worth. Raises StartProblem with one line for each thing wrong."""
    with FillSpool() as spool, tempfile.SpooledTemporaryFile(_IN_MEMORY, "w+", encoding="utf-8") as output:
        instruments = _load(request, spool)
        marks = _marks_by_symbol(request.marks, instruments)
        out: Any = output  # SpooledTemporaryFile is a TextIO in all but its type.
        report: Report = JsonReport(request.method, out) if request.as_json else TableReport(out)
        _value(request, spool, instruments, marks, report)
        # Only now: a file that turns out wrong half-way prints nothing but what is wrong.
        output.seek(0)
        _print(out)


def _print(output: TextIO) -> None:
    try:
        shutil.copyfileobj(output, sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever reads has seen enough. Python would complain when it flushes again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _load(request: Request, spool: FillSpool) -> dict[str, Instrument]:
    reader = FillReader(request.terms)
    problems: list[str] = []
    try:
        for row in read_rows(request.path):
            try:
                spool.add(reader.read(row))
            except RowProblem as problem:
                problems.append(str(problem))
                if len(problems) == _MOST_PROBLEMS:
                    problems.append("and perhaps more: these come first")
                    break
    except FileProblem as problem:
        problems.append(str(problem))
    if problems:
        raise StartProblem("\n".join(problems))
    return reader.instruments


def _marks_by_symbol(given: Sequence[str], instruments: Mapping[str, Instrument]) -> dict[str, list[Decimal]]:
    marks: dict[str, list[Decimal]] = {}
    for text in given:
        symbol, separator, price = text.rpartition("=")
        if not separator and len(instruments) > 1:
            raise StartProblem(f"--mark {text}: the file has several symbols, so say whose: --mark SYMBOL=PRICE")
        symbol = symbol or next(iter(instruments), "")
        if instruments and symbol not in instruments:
            raise StartProblem(f"--mark {text}: {symbol} is not in the file")
        try:
            marks.setdefault(symbol, []).append(parse_positive(price))
        except ValueError as error:
            raise StartProblem(f"--mark {text}: {error}") from None
    return marks


def _value(
    request: Request,
    spool: FillSpool,
    instruments: Mapping[str, Instrument],
    marks: Mapping[str, list[Decimal]],
    report: Report,
) -> None:
    totals: dict[str, Totals] = {}
    for key, rows in spool.positions():
        instrument = instruments[key.symbol]
        asked = marks.get(key.symbol, [])
        report.begin(key, instrument, asked)
        book = LotBook(instrument, request.method, key.position_side)
        count = 0
        for count, (number, fill) in enumerate(rows, start=1):
            disposals = _book(book, number, fill)
            if request.each:
                report.fill(number, fill, publish(book.describe(count - 1, asked)), disposals)
        last = publish(book.describe(count - 1, asked))
        report.end(count, last)
        totals.setdefault(instrument.settle, Totals()).add(last)
    report.finish(totals, spool.repeats)


def _book(book: LotBook, number: int, fill: Fill) -> list[Disposal]:
    try:
        return book.book(fill)
    except ContradictoryFill as problem:
        raise StartProblem(f"row {number}: {problem}") from None
