"""How many ticks a price worker takes in: decode, check, keep the newest per symbol, drain."""

import os
import random
import time
from typing import Final

from app.domain.conflation import Conflator
from app.exchanges.binance.messages import decode_envelope
from app.exchanges.binance.spot_streams import SpotReceiver

_SYMBOLS: Final = 2_000
_MESSAGES: Final = 200_000
_PER_DRAIN: Final = 10_000
_TRADE_SHARE: Final = 0.3
_NOW_MS: Final = 1_700_000_000_000


def figures() -> dict[str, float]:
    """Messages per second on one core, quotes and trades mixed, and what a whole-market array costs."""
    chance = random.Random(1)
    names = [f"S{number}USDT" for number in range(_SYMBOLS)]
    messages = [_message(chance.choice(names), number, chance) for number in range(_MESSAGES)]
    array = _ticker_array(names, chance)
    ticks = Conflator(stale_after_ms=5000)
    receiver = SpotReceiver(ticks, set(names), lambda: _NOW_MS)
    drained = 0.0
    started = time.process_time()
    for place, message in enumerate(messages, start=1):
        _receive(receiver, message)
        if not place % _PER_DRAIN:
            before = time.process_time()
            ticks.drain()
            drained += time.process_time() - before
    taken = time.process_time() - started
    before = time.process_time()
    for _ in range(20):
        _receive(receiver, array)
    per_entry = (time.process_time() - before) / 20 / _SYMBOLS
    return {
        "load average": os.getloadavg()[0],
        "messages/s, drains included": _MESSAGES / taken,
        "µs a message": (taken - drained) / _MESSAGES * 1e6,
        "ms a drain of 2,000 symbols": drained / (_MESSAGES / _PER_DRAIN) * 1e3,
        "µs an entry of the whole-market array": per_entry * 1e6,
        "refused": sum(ticks.rejected.values()),
    }


def _receive(receiver: SpotReceiver, message: bytes) -> None:
    """As the connection does with each frame."""
    envelope = decode_envelope(message)
    assert envelope.stream is not None
    receiver.receive(envelope.stream, envelope.data)


def _message(symbol: str, number: int, chance: random.Random) -> bytes:
    price = chance.randrange(10**6, 10**9)
    if chance.random() < _TRADE_SHARE:
        return (
            f'{{"stream":"{symbol.lower()}@aggTrade","data":{{"e":"aggTrade","E":{_NOW_MS},"s":"{symbol}",'
            f'"a":{number},"p":"{price / 1e4:.8f}","q":"0.12300000","f":{number},"l":{number},'
            f'"T":{_NOW_MS},"m":true,"M":true}}}}'
        ).encode()
    return (
        f'{{"stream":"{symbol.lower()}@bookTicker","data":{{"u":{number + 1},"s":"{symbol}",'
        f'"b":"{price / 1e4:.8f}","B":"31.21000000","a":"{(price + 1) / 1e4:.8f}","A":"40.66000000"}}}}'
    ).encode()


def _ticker_array(names: list[str], chance: random.Random) -> bytes:
    entries = ",".join(
        f'{{"e":"24hrMiniTicker","E":{_NOW_MS},"s":"{name}","c":"{chance.randrange(10**6, 10**9) / 1e4:.8f}",'
        f'"o":"0.00100000","h":"0.00250000","l":"0.00100000","v":"10000.00000000","q":"18.00000000"}}'
        for name in names
    )
    return f'{{"stream":"!miniTicker@arr","data":[{entries}]}}'.encode()
