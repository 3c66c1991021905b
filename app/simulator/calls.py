"""REST calls as every market of the exchange takes them: weighed, sometimes spoiled, and answered in JSON."""

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web

from app.simulator.exchange import Exchange
from app.simulator.faults import RestFaults
from app.simulator.limits import Refusal, WeightBudget

_NUMBER_RANGE = r"^[0-9]{1,20}$"

Query = Any


class RestError(Exception):
    """A call that the exchange refuses with a code and a message."""

    def __init__(self, code: int, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status


class Calls:
    """The calls of one market: each is counted, weighed and answered. Markets may share their weights."""

    def __init__(self, exchange: Exchange, weights: WeightBudget) -> None:
        self._exchange = exchange
        self._weights = weights
        self.faults = RestFaults()
        self.by_path: Counter[str] = Counter()

    def clear(self) -> None:
        """Forget used weight, bans and faults."""
        self._weights.clear()
        self.faults = RestFaults()

    def route(self, path: str, cost: Callable[[Query], int], answer: Callable[[Query], Any]) -> web.RouteDef:
        async def call(request: web.Request) -> web.Response:
            self.by_path[path] += 1
            if self.faults.delay_s:
                await asyncio.sleep(self.faults.delay_s)
            return self.weighed(request, self._answered(request, cost(request.query), answer))

        return web.get(path, call)

    def _answered(self, request: web.Request, cost: int, answer: Callable[[Query], Any]) -> web.Response:
        refusal = self._weights.spend(request.remote or "", cost, self.now_ms)
        if refusal is not None:
            return _refused(refusal, self._weights.per_minute)
        failure = self.faults.failure()
        if failure is not None:
            return _failed(failure, self.faults)
        try:
            return json_response(answer(request.query))
        except RestError as error:
            return json_response({"code": error.code, "msg": error.message}, status=error.status)

    @property
    def now_ms(self) -> int:
        return self._exchange.now_us // 1000

    def weighed(self, request: web.Request, response: web.Response) -> web.Response:
        used = self._weights.used(request.remote or "", self.now_ms)
        response.headers["X-MBX-USED-WEIGHT"] = response.headers["X-MBX-USED-WEIGHT-1M"] = str(used)
        return response


def costs(weight: int) -> Callable[[Query], int]:
    return lambda _: weight


def json_response(answer: Any, status: int = 200) -> web.Response:
    return web.Response(
        status=status, body=msgspec.json.encode(answer), content_type="application/json", charset="utf-8"
    )


def _refused(refusal: Refusal, limit: int) -> web.Response:
    if refusal.banned_until_ms is not None:
        message = (
            f"Way too much request weight used; IP banned until {refusal.banned_until_ms}. "
            "Please use WebSocket Streams for live updates to avoid bans."
        )
    else:
        message = (
            f"Too much request weight used; current limit is {limit} request weight per 1 MINUTE. "
            "Please use WebSocket Streams for live updates to avoid polling the API."
        )
    response = json_response({"code": -1003, "msg": message}, status=refusal.status)
    response.headers["Retry-After"] = str(refusal.retry_after_s)
    return response


def _failed(status: int, faults: RestFaults) -> web.Response:
    response = json_response({"code": faults.code, "msg": faults.message}, status=status)
    if faults.retry_after_s is not None:
        response.headers["Retry-After"] = str(faults.retry_after_s)
    return response


def illegal(name: str, legal: str) -> RestError:
    return RestError(-1100, f"Illegal characters found in parameter '{name}'; legal range is '{legal}'.")


def mandatory(query: Query, name: str) -> str:
    value = query.get(name, "")
    if not value:
        raise RestError(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")
    return str(value)


def number(query: Query, name: str) -> int | None:
    value = query.get(name)
    if value is None:
        return None
    if not re.fullmatch("[0-9]{1,20}", value):
        raise illegal(name, _NUMBER_RANGE)
    return int(value)


def rate_limit(kind: str, interval: str, number: int, limit: int) -> dict[str, Any]:
    return {"rateLimitType": kind, "interval": interval, "intervalNum": number, "limit": limit}
