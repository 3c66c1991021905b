"""A place in a list that is ordered by time, then id."""

from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Column, ColumnElement, literal, tuple_


class Place(msgspec.Struct, frozen=True):
    """Where a page ended."""

    at: datetime
    id: str


def precedes(place: Place, at: Column[Any], id_: Column[Any]) -> ColumnElement[bool]:
    """Rows after a place in a list with the newest first. One comparison of pairs, which an index can follow."""
    return tuple_(at, id_) < tuple_(literal(place.at, at.type), literal(place.id, id_.type))
