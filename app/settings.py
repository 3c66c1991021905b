"""Every setting, with its unit and its bound. The environment is read here and nowhere else.

A variable is the field's name in capitals with the prefix ``TIDEMARK_``;
``DATABASE_URL`` and ``REDIS_URL`` are also taken without it.
"""

from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, PositiveInt, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.bus.topology import parse_redis_url
from app.domain.instruments import Market
from app.domain.shards import MOST_SHARDS
from app.exchanges.binance.endpoints import MarketUrls


class Settings(BaseSettings):
    """The configuration of one process."""

    model_config = SettingsConfigDict(
        env_prefix="TIDEMARK_",
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        # URLs carry passwords.
        hide_input_in_errors=True,
    )

    environment: Literal["development", "production"] = "development"
    log_format: Literal["console", "json"] = "console"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    web_workers: Annotated[int, Field(ge=1, le=64)] = 2
    data_dir: Path = Path(".tidemark")

    database_url: str | None = Field(
        default=None, validation_alias=AliasChoices("TIDEMARK_DATABASE_URL", "DATABASE_URL")
    )
    redis_url: str | None = Field(default=None, validation_alias=AliasChoices("TIDEMARK_REDIS_URL", "REDIS_URL"))
    database_pool_size: Annotated[int, Field(ge=1, le=100)] = 5
    database_timeout_s: Annotated[float, Field(gt=0, le=60)] = 5.0
    redis_timeout_s: Annotated[float, Field(gt=0, le=60)] = 1.0

    public_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Origins (scheme://host[:port]) that browsers may come from, besides the server's own host."""
    registration_open: bool = True
    session_idle_s: PositiveInt = 12 * 3600
    session_absolute_s: PositiveInt = 7 * 24 * 3600
    password_hashes_at_once: Annotated[int, Field(ge=1, le=16)] = 1
    password_hashes_waiting: Annotated[int, Field(ge=1, le=1000)] = 32
    logins_per_minute_per_ip: PositiveInt = 30
    logins_per_minute_per_user: PositiveInt = 10
    writes_per_second_per_user: PositiveInt = 50
    max_open_positions_per_user: PositiveInt = 2000

    flush_ms: Annotated[int, Field(ge=10, le=5000)] = 100
    stale_after_ms: Annotated[int, Field(ge=500, le=600_000)] = 5000
    lease_ttl_ms: Annotated[int, Field(ge=500, le=60_000)] = 3000
    pnl_cache_ttl_s: PositiveInt = 60
    pnl_shards: Annotated[int, Field(ge=1, le=MOST_SHARDS)] = 1
    """Into how many parts the users are split; each needs a P&L worker of its own."""
    pnl_warm_positions: Annotated[int, Field(ge=0, le=100_000_000)] = 1_000_000
    """How many positions a P&L worker that stands by keeps ready, 0.8 kB each; others are loaded at a takeover."""
    history_minute_days: Annotated[int, Field(ge=1, le=60)] = 2
    """How many days every minute of what accounts are worth is kept; hours are kept longer, days for ever."""
    history_hour_days: Annotated[int, Field(ge=2, le=3660)] = 92
    reporting_currency: str = "USDT"
    reconcile_every_s: Annotated[int, Field(ge=0, le=86_400)] = 900
    """How often P&L workers hold rows, book and cache against the ledger; the first time at the start. 0: never."""

    import_dir: Path | None = None
    """Where files lie until they are imported; ``imports`` in the data folder where it is not set."""
    import_max_bytes: Annotated[int, Field(ge=1024, le=1 << 40)] = 1 << 30
    """How large a file may be."""

    stream_max_hz: Annotated[float, Field(gt=0, le=50)] = 10.0
    stream_default_hz: Annotated[float, Field(gt=0, le=50)] = 10.0
    stream_heartbeat_ms: Annotated[int, Field(ge=500, le=60_000)] = 15_000
    stream_max_symbols: PositiveInt = 200
    stream_max_message_bytes: PositiveInt = 4096
    stream_max_messages_per_s: PositiveInt = 20
    stream_max_connections: PositiveInt = 20_000
    stream_max_connections_per_user: PositiveInt = 10
    stream_max_connections_per_ip: PositiveInt = 1000
    stream_backlog_bytes: PositiveInt = 65_536
    stream_stall_s: Annotated[float, Field(gt=0, le=120)] = 5.0
    drain_s: Annotated[float, Field(ge=0, le=120)] = 3.0

    binance_markets: Annotated[tuple[Market, ...], NoDecode] = ("spot", "linear", "inverse")
    """Which markets are followed; linear is USDⓈ-M, inverse COIN-M."""
    binance_spot_rest_url: str = "https://data-api.binance.vision"
    binance_spot_ws_url: str = "wss://data-stream.binance.vision"
    binance_linear_rest_url: str = "https://fapi.binance.com"
    binance_linear_public_ws_url: str = "wss://fstream.binance.com/public"
    binance_linear_market_ws_url: str = "wss://fstream.binance.com/market"
    binance_inverse_rest_url: str = "https://dapi.binance.com"
    binance_inverse_public_ws_url: str = "wss://dstream.binance.com"
    binance_inverse_market_ws_url: str = "wss://dstream.binance.com"
    simulator_url: str | None = None
    """Where the local exchange is (http://host:port). If set, it stands in for every market of Binance."""
    binance_first_data_s: Annotated[float, Field(gt=0, le=120)] = 8.0
    binance_silence_s: Annotated[float, Field(gt=0, le=600)] = 60.0
    binance_data_age_s: Annotated[float, Field(gt=0, le=600)] = 10.0
    binance_rotate_after_s: Annotated[float, Field(gt=0, le=86_000)] = 23 * 3600
    binance_max_streams_per_connection: Annotated[int, Field(ge=1, le=1024)] = 300

    simulator_port: Annotated[int, Field(ge=1, le=65535)] = 9100
    simulator_ticks_per_s: Annotated[int, Field(ge=0, le=20_000)] = 500
    simulator_funding_interval_s: Annotated[int, Field(ge=10, le=86_400)] = 8 * 3600
    simulator_made_up_coins: Annotated[int, Field(ge=0, le=5_000)] = 0
    """How many coins to list beyond the usual ones, for a market of thousands."""
    simulator_replay_symbol: str = "BTCUSDT"
    """The symbol that recorded ticks, where there are any, drive instead of the seeded process."""
    simulator_replay_trades: Path | None = None
    simulator_replay_quotes: Path | None = None
    simulator_replay_speed: Annotated[float, Field(gt=0, le=1000)] = 1.0

    @field_validator("redis_url")
    @classmethod
    def _known_redis(cls, value: str | None) -> str | None:
        if value is not None:
            parse_redis_url(value)
        return value

    @field_validator("binance_markets")
    @classmethod
    def _some_market(cls, value: tuple[Market, ...]) -> tuple[Market, ...]:
        if not value or len(set(value)) < len(value):
            raise ValueError("names at least one market, and each once")
        return value

    @field_validator("simulator_url")
    @classmethod
    def _plain_base(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("is the base of an exchange: http://host:port")
        return None if value is None else value.rstrip("/")

    @field_validator("public_origins", "binance_markets", mode="before")
    @classmethod
    def _split_list(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("public_origins")
    @classmethod
    def _whole_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            parts = urlsplit(origin)
            if parts.scheme not in {"http", "https"} or not parts.netloc or parts.path:
                raise ValueError(f"{origin!r} is not an origin (scheme://host[:port], no path, no wildcard)")
        return value

    @property
    def import_folder(self) -> Path:
        """The folder of files that are to be imported, as an absolute path."""
        return (self.import_dir or self.data_dir / "imports").absolute()

    @cached_property
    def binance_urls(self) -> dict[Market, MarketUrls]:
        """Where each market that is followed is."""
        if self.simulator_url is not None:
            return {market: _simulated(self.simulator_url, market) for market in self.binance_markets}
        urls: dict[Market, MarketUrls] = {
            "spot": MarketUrls(self.binance_spot_rest_url, self.binance_spot_ws_url, self.binance_spot_ws_url),
            "linear": MarketUrls(
                self.binance_linear_rest_url, self.binance_linear_public_ws_url, self.binance_linear_market_ws_url
            ),
            "inverse": MarketUrls(
                self.binance_inverse_rest_url, self.binance_inverse_public_ws_url, self.binance_inverse_market_ws_url
            ),
        }
        return {market: urls[market] for market in self.binance_markets}

    @cached_property
    def feed_is_simulated(self) -> bool:
        """Whether prices may come from anything but Binance's production hosts."""
        hosts = (urlsplit(url).hostname for urls in self.binance_urls.values() for url in urls)
        return not all(_is_production_host(host or "") for host in hosts)


def _simulated(url: str, market: Market) -> MarketUrls:
    """The local exchange has all markets on one port; the path of a stream tells them apart."""
    streams = url.replace("http", "ws", 1)
    if market == "spot":
        return MarketUrls(url, streams, streams)
    if market == "linear":
        return MarketUrls(url, f"{streams}/public", f"{streams}/market")
    return MarketUrls(url, f"{streams}/dstream", f"{streams}/dstream")


_PRODUCTION_HOSTS = frozenset(
    {"data-api.binance.vision", "data-stream.binance.vision", "api.binance.com", "stream.binance.com"}
    | {f"api{n}.binance.com" for n in range(1, 5)}
    | {"api-gcp.binance.com", "fapi.binance.com", "fstream.binance.com", "dapi.binance.com", "dstream.binance.com"}
)


def _is_production_host(host: str) -> bool:
    return host in _PRODUCTION_HOSTS
