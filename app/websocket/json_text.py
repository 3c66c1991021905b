"""Small values as JSON text, for frames that are joined from parts."""

import msgspec

_encoder = msgspec.json.Encoder()


def json_text(value: object) -> str:
    """A value as JSON."""
    return _encoder.encode(value).decode()


def quoted(text: str | None) -> str:
    """A decimal (which needs no escaping) as a JSON string, or ``null``."""
    return "null" if text is None else f'"{text}"'


def flag(value: bool) -> str:
    return "true" if value else "false"
