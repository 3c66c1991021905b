"""The kinds of fields that requests are made of. What they accept is the contract's, to the character."""

import re
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Final
from uuid import UUID
from zoneinfo import available_timezones

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, StringConstraints, WithJsonSchema
from pydantic_core import PydanticCustomError

from app.domain.decimals import parse_positive, parse_signed

_REGIONS: Final = frozenset(
    {"Africa", "America", "Antarctica", "Arctic", "Asia", "Atlantic", "Australia", "Europe", "Indian", "Pacific"}
)
_RFC3339: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
# Names with a region, and UTC: both Python and PostgreSQL know those, and both mean the same by them.
_TIME_ZONES: Final = frozenset(
    {"UTC"} | {name for name in available_timezones() if name.split("/")[0] in _REGIONS and "/" in name}
)
_EARLIEST: Final = datetime(2000, 1, 1, tzinfo=UTC)


class RequestBody(BaseModel):
    """A body with these fields and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class QueryParameters(BaseModel):
    """A query string with these parameters and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _amount(parse: Callable[[str], Decimal]) -> Callable[[Any], Decimal]:
    def validate(value: Any) -> Decimal:
        if not isinstance(value, str):
            raise PydanticCustomError("string_expected", 'must be a decimal in a string, such as "0.5"')
        try:
            return parse(value)
        except ValueError as error:
            raise PydanticCustomError("not_a_decimal", "{reason}", {"reason": str(error)}) from None

    return validate


def _moment(value: Any) -> datetime:
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        raise PydanticCustomError("not_a_time", "must be a time as in RFC 3339, such as 2026-01-31T12:00:00Z")
    try:
        moment = datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise PydanticCustomError("not_a_time", "there is no such time") from None
    if moment < _EARLIEST:
        raise PydanticCustomError("too_early", "must not be before the year 2000")
    return moment


def is_id(text: str) -> bool:
    """Whether a text could be an id of ours: a UUID in its one canonical form."""
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


def _canonical_id(value: str) -> str:
    if not is_id(value):
        raise PydanticCustomError("not_an_id", "is not an id")
    return value


def _printable(value: str) -> str:
    if any(unicodedata.category(character)[0] == "C" for character in value) or value != value.strip():
        raise PydanticCustomError("not_printable", "must be printable and neither begin nor end with a space")
    return value


def _readable(value: str) -> str:
    if any(unicodedata.category(character) in {"Cc", "Cs"} and character not in "\n\t" for character in value):
        raise PydanticCustomError("not_readable", "must not contain control characters")
    return value


def _listed_zone(value: str) -> str:
    if value not in _TIME_ZONES:
        raise PydanticCustomError("not_a_time_zone", "is no time zone of the IANA list, such as Europe/Berlin")
    return value


_PATTERN: Final = r"^[0-9]{1,18}(\.[0-9]{1,18})?$"

PositiveAmount = Annotated[
    Decimal,
    BeforeValidator(_amount(parse_positive)),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": _PATTERN,
            "examples": ["0.5"],
            "description": "A positive decimal without exponent, at most 18 digits each side of the point.",
        }
    ),
]
SignedAmount = Annotated[
    Decimal,
    BeforeValidator(_amount(parse_signed)),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": _PATTERN.replace("^", "^-?"),
            "examples": ["0.0004", "-0.0001"],
            "description": "A decimal without exponent, at most 18 digits each side of the point.",
        }
    ),
]
Moment = Annotated[
    datetime,
    BeforeValidator(_moment),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2026-01-31T12:00:00Z"]}),
]
Id = Annotated[str, AfterValidator(_canonical_id), WithJsonSchema({"type": "string", "format": "uuid"})]
SymbolName = Annotated[str, StringConstraints(min_length=1, max_length=64), AfterValidator(_readable)]
TimeZone = Annotated[str, StringConstraints(min_length=1, max_length=64), AfterValidator(_listed_zone)]
Asset = Annotated[str, StringConstraints(min_length=1, max_length=32), AfterValidator(_readable)]
LoginName = Annotated[str, StringConstraints(min_length=1, max_length=64), AfterValidator(_readable)]
Strategy = Annotated[str, StringConstraints(min_length=1, max_length=64), AfterValidator(_printable)]
Note = Annotated[str, StringConstraints(max_length=1000), AfterValidator(_readable)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=64), AfterValidator(_printable)]
Reason = Annotated[str, StringConstraints(min_length=1, max_length=500), AfterValidator(_printable)]
ExternalId = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,64}$")]
