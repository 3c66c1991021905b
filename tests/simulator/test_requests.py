"""The subscribe protocol, request by request, without a connection."""

import pytest

from app.simulator.requests import Refused, error_reply, is_stream_name, read_request, result_reply, stream_names


@pytest.mark.parametrize(
    ("request_id", "reply"),
    [
        ("1", b'{"result":null,"id":1}'),
        ("-9223372036854775808", b'{"result":null,"id":-9223372036854775808}'),
        ('"a1b2"', b'{"result":null,"id":"a1b2"}'),
        ('"922bcc6e-9de8-440d-9e84-7c80933a8d0d"', b'{"result":null,"id":"922bcc6e-9de8-440d-9e84-7c80933a8d0d"}'),
        ("null", b'{"result":null,"id":null}'),
    ],
)
def test_integers_short_strings_and_null_are_ids_and_come_back(request_id: str, reply: bytes) -> None:
    request = read_request(b'{"method":"SUBSCRIBE","params":["btcusdt@trade"],"id":%b}' % request_id.encode())
    assert result_reply(None, request.reply_id) == reply


def test_a_request_without_an_id_is_answered_without_one() -> None:
    request = read_request(b'{"method":"LIST_SUBSCRIPTIONS"}')
    assert result_reply([], request.reply_id) == b'{"result":[]}'


@pytest.mark.parametrize("request_id", ["1.5", "true", "[]", '"' + "a" * 37 + '"', '"a b"', "9223372036854775808"])
def test_anything_else_is_no_id(request_id: str) -> None:
    with pytest.raises(Refused) as refused:
        read_request(b'{"method":"LIST_SUBSCRIPTIONS","id":%b}' % request_id.encode())
    assert refused.value.code == 2
    assert not refused.value.fatal


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        (b"{", b'{"error":{"code":3,"msg":"Invalid JSON: expected value at line 1 column 1"}}'),
        (b"\xff", b'{"error":{"code":3,"msg":"Invalid JSON: expected value at line 1 column 1"}}'),
        (b"[]", b'{"error":{"code":2,"msg":"Invalid request: expected an object"}}'),
        (
            b'{"id":7}',
            b'{"error":{"code":2,"msg":"Invalid request: missing field `method` at line 1 column 8"},"id":7}',
        ),
        (
            b'{"method":"HELLO","id":1}',
            b'{"error":{"code":2,"msg":"Invalid request: unknown variant `HELLO`, expected one of `SUBSCRIBE`, '
            b'`UNSUBSCRIBE`, `LIST_SUBSCRIPTIONS`, `SET_PROPERTY`, `GET_PROPERTY`"},"id":1}',
        ),
    ],
)
def test_errors_are_nested_under_error_with_the_documented_code(text: bytes, reply: bytes) -> None:
    with pytest.raises(Refused) as refused:
        read_request(text)
    assert error_reply(refused.value) == reply


@pytest.mark.parametrize(
    "name",
    [
        "btcusdt@bookTicker",
        "1000satsusdt@aggTrade",
        "币安人生usdt@trade",
        "btcusdt@kline_1m@+08:00",
        "btcusdt@depth5@100ms",
        "!miniTicker@arr",
        "!ticker_1h@arr",
        "nosuchsymbol@nosuchkind",
        "BTCUSDT@trade",
    ],
)
def test_a_name_of_the_right_form_is_a_stream_name(name: str) -> None:
    assert is_stream_name(name)


@pytest.mark.parametrize(
    "name", ["", "0", "btcusdt", "@trade", "btc usdt@trade", "btcusdt@", "btcusdt@1m", "a@b@c@", "!"]
)
def test_any_other_name_is_refused_for_good(name: str) -> None:
    request = read_request(b'{"method":"SUBSCRIBE","params":["%b"],"id":1}' % name.encode())
    with pytest.raises(Refused) as refused:
        stream_names(request)
    assert refused.value.fatal
    assert error_reply(refused.value) == b'{"error":{"code":2,"msg":"Invalid request: invalid stream"},"id":1}'
