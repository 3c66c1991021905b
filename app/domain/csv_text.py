"""Text in CSV files that spreadsheets open: it is shown, never calculated.

A spreadsheet takes a cell that begins with one of ``= + - @`` for a formula,
which may call programs and send data away (CWE-1236). An apostrophe before it
makes it text. One that stands there already is doubled, so that a reader takes
exactly one away and has what was written.
"""

from typing import Final

_BEFORE: Final = tuple("=+-@\t\r'")


def csv_cell(text: str) -> str:
    """Text as it is written into a cell."""
    return f"'{text}" if text.startswith(_BEFORE) else text


def cell_text(cell: str) -> str:
    """Text as it was before :func:`csv_cell`; of other sources, as it is."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_BEFORE) else cell
