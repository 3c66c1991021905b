"""Tables as text, CSV and JSON: row by row, so that one of any length fits in memory.

Numbers stay the text they are: a binary float has lost digits already. A line or
a JSON value above a megabyte is refused, so that no file makes a reader grow.
"""

import csv
import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

_CHUNK = 1 << 20
_LONGEST_LINE = 1 << 20
_BETWEEN = re.compile(r"[ \t\r\n]*")
_IN_ARRAY = re.compile(r"[ \t\r\n,]*")


class FileProblem(ValueError):
    """The file as a whole cannot be read."""


def is_json(file: TextIO) -> bool:
    """Whether a file begins as JSON does. Leaves it at its beginning."""
    start = file.read(_CHUNK).lstrip()[:1]
    file.seek(0)
    return start in ("[", "{")


def csv_records(file: TextIO) -> Iterator[list[str]]:
    """The records of a CSV, the header first; commas, semicolons or tabs separate. Raises FileProblem."""
    first = file.readline(_LONGEST_LINE)
    file.seek(0)
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(_lines(file), delimiter=delimiter, strict=True)
    try:
        yield from reader
    except csv.Error as error:
        raise FileProblem(f"line {reader.line_num}: {error}") from None


def column_name(header: str) -> str:
    """A header cell as a name: ``Fee Coin`` is ``fee_coin``."""
    return header.strip().lower().replace(" ", "_")


def json_items(file: TextIO) -> Iterator[Any]:
    """The elements of an array, or one value after another, decoded as they are read. Raises FileProblem."""
    decoder = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=str)
    text = file.read(_CHUNK)
    is_array = text.lstrip().startswith("[")
    skipped = _IN_ARRAY if is_array else _BETWEEN
    at = text.index("[") + 1 if is_array else 0
    while True:
        at = _end_of(skipped, text, at)
        try:
            item, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            if is_array and text.startswith("]", at):
                return
            more = file.read(_CHUNK)
            if not more and at == len(text) and not is_array:
                return
            if not more or len(text) - at > _CHUNK:
                raise FileProblem(f"not valid JSON, or cut off: {error.msg.lower()}") from None
            text, at = text[at:] + more, 0
        except RecursionError:
            raise FileProblem("JSON nested too deeply") from None
        else:
            yield item


def _lines(file: TextIO) -> Iterator[str]:
    while line := file.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE:
            raise FileProblem(f"a line is longer than {_LONGEST_LINE} characters")
        yield line


def _end_of(skipped: re.Pattern[str], text: str, at: int) -> int:
    match = skipped.match(text, at)
    return match.end() if match else at
