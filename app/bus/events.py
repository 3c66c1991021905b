"""Ledger events on the bus: what one committed transaction did to a user."""

import msgspec
from redis.asyncio import Redis

from app.bus import keys
from app.bus.connection import deadline
from app.bus.messages import LedgerEvent

_encoder = msgspec.msgpack.Encoder(decimal_format="string")
_decoder = msgspec.msgpack.Decoder(LedgerEvent)


async def publish_event(redis: "Redis", event: LedgerEvent, timeout_s: float) -> None:
    """Tell P&L workers and web processes of a commit.

    Raises:
        BusUnavailable: nobody may have heard. The commit stands all the same,
            and whoever missed it finds the hole in ``seq`` or by polling.
    """
    await deadline(redis.publish(keys.EVENT_CHANNEL, _encoder.encode(event)), timeout_s)


def decode_event(payload: bytes) -> LedgerEvent:
    """Read a message of :data:`keys.EVENT_CHANNEL`. Raises msgspec.DecodeError."""
    return _decoder.decode(payload)
