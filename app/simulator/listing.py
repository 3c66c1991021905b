"""What the simulated exchange lists: assets with plausible prices, and the symbols made of them."""

import math
import random
from collections.abc import Iterator
from typing import Literal

import msgspec

from app.simulator.wire import ONE

SymbolStatus = Literal["TRADING", "HALT", "BREAK", "CANCEL_ONLY"]


class Asset(msgspec.Struct, frozen=True, kw_only=True):
    """One asset: its opening value in US dollars and how it moves.

    ``volatility`` is that of its own part of the move, per square root of a
    year; ``beta`` is its share in the common market factor.
    """

    ticker: str
    usd: float
    rank: int
    volatility: float
    beta: float


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """What does not change about a symbol. Prices and quantities in units of 1e-8."""

    symbol: str
    base: str
    quote: str
    tick: int
    step: int
    min_notional: int
    typical_quantity: int
    spread_bps: float
    activity: float
    status: SymbolStatus


_COINS = """
BTC 91250 ETH 3050 SOL 141 XRP 2.21 BNB 905 DOGE 0.158 ADA 0.472 SUI 1.62 TRX 0.287 AVAX 14.6 LINK 13.7
PEPE 0.00000482 SHIB 0.00000861 LTC 96 BCH 528 NEAR 2.31 DOT 2.74 UNI 7.4 AAVE 176 TON 1.83 WIF 0.402
ENA 0.281 ICP 4.9 HBAR 0.147 XLM 0.254 ETC 15.2 APT 3.05 ARB 0.219 OP 0.332 FIL 1.74 BONK 0.00000971
FLOKI 0.0000487 ATOM 2.71 INJ 6.1 TAO 312 WLD 0.661 FET 0.283 RENDER 1.92 SEI 0.147 TIA 0.71 ONDO 0.524
JUP 0.251 PENDLE 2.44 LDO 0.74 CRV 0.432 ENS 12.1 ALGO 0.148 VET 0.0141 GALA 0.0089 SAND 0.178 MANA 0.211
AXS 1.21 APE 0.302 IMX 0.361 STX 0.374 RUNE 0.841 GRT 0.0531 THETA 0.452 EGLD 8.7 XTZ 0.541 FLOW 0.241
KAVA 0.124 CHZ 0.0312 NEO 4.3 ZEC 512 DASH 74 XMR 388 QTUM 1.62 IOTA 0.119 ONT 0.0781 ZIL 0.00641 BAT 0.182
ENJ 0.0384 HOT 0.000581 ANKR 0.00742 CELR 0.00392 ONE 0.00471 ROSE 0.0187 CKB 0.00301 IOTX 0.0113 RVN 0.00842
SC 0.00192 DENT 0.000312 WIN 0.0000372 BTTC 0.000000441 LUNC 0.0000391 LUNA 0.0823 USTC 0.00741 JASMY 0.00782
MASK 0.721 DYDX 0.251 GMX 9.4 SNX 0.631 COMP 32.4 YFI 4210 SUSHI 0.371 BAL 0.812 ZRX 0.172 KNC 0.262
LRC 0.0641 1INCH 0.184 CAKE 2.31 TWT 1.21 C98 0.0312 ALICE 0.231 TLM 0.00312 SLP 0.00112 YGG 0.0942
MAGIC 0.121 HIGH 0.282 PEOPLE 0.0112 GMT 0.0214 BLUR 0.0412 ID 0.0872 EDU 0.181 CFX 0.0812 MINA 0.0914 AR 4.21
STORJ 0.162 GLM 0.214 ORDI 4.61 1000SATS 0.0000182 RATS 0.0000151 MEME 0.00141 BOME 0.000912 NOT 0.000712
DOGS 0.0000512 TURBO 0.00214 PNUT 0.0912 ACT 0.0231 NEIRO 0.000181 MOODENG 0.0812 GOAT 0.0462 POPCAT 0.112
BRETT 0.0181 MEW 0.00141 STRK 0.161 ZK 0.0512 ZRO 1.41 W 0.0482 JTO 0.512 PYTH 0.0812 DYM 0.104 MANTA 0.112
ALT 0.0141 PIXEL 0.0121 PORTAL 0.0242 AEVO 0.0481 ETHFI 0.912 EIGEN 0.712 IO 0.191 LISTA 0.212 BB 0.0712
REZ 0.00812 SAGA 0.0912 OMNI 2.11 TNSR 0.0812 NFP 0.0412 XAI 0.0212 AI 0.0612 ACE 0.312 CYBER 0.912 ARKM 0.281
MAV 0.0341 SSV 4.61 RPL 2.71 FXS 0.912 CVX 2.14 SPELL 0.000341 JOE 0.0912 SYN 0.0712 STG 0.151 HOOK 0.0712
PHB 0.412 AGLD 0.412 RAD 0.412 BICO 0.0712 API3 0.512 BAND 0.412 TRB 21.4 UMA 0.812 NMR 11.2 LPT 4.12
OCEAN 0.241 AUDIO 0.0412 CTSI 0.0481 SKL 0.0141 COTI 0.0312 CELO 0.182 KSM 9.12 ASTR 0.0141 GLMR 0.0391
MOVR 3.12 ACA 0.0212 LIT 0.312 DODO 0.0291 ALPHA 0.0121 BEL 0.181 PERP 0.141 REEF 0.000312 DUSK 0.0481
ARPA 0.0181 CTK 0.281 OGN 0.0412 REQ 0.112 POWR 0.0912 FUN 0.00312 MTL 0.412 DATA 0.0081 LSK 0.281 HIVE 0.112
STEEM 0.0812 ARK 0.312 ARDR 0.0681 WAXP 0.0121 XVS 4.12 ALPINE 0.512 SANTOS 1.71 LAZIO 0.812 PORTO 0.912
PSG 1.12 CITY 0.812 BAR 0.712 ACM 0.712 JUV 0.812 PAXG 4120 VANA 2.81 MOVE 0.0512 ME 0.312 USUAL 0.0281
BIO 0.0512 PENGU 0.0112 VIRTUAL 0.912 S 0.0912 BERA 1.12 KAITO 0.712 LAYER 0.212 TRUMP 6.12 币安人生 0.131
"""

# Once traded, now in BREAK: still listed by exchangeInfo, with an empty book.
_DELISTED = (
    "SRM 0.0121 TOMO 0.812 BTS 0.00412 ANT 5.12 WTC 0.0212 OMG 0.181 WAVES 0.812 XEM 0.00121 MDT 0.0121 TROY 0.00121"
)

_MONEY = {
    # ticker: US dollars, volatility per square root of a year
    "USDT": (1.0, 0.0),
    "USDC": (0.9998, 0.002),
    "FDUSD": (0.9991, 0.002),
    "EUR": (1.158, 0.07),
    "TRY": (0.0236, 0.09),
}

# quote asset: how many of the top coins trade against it, and how busy that is next to USDT
_MARKETS = {
    "USDT": (10_000, 1.0),
    "USDC": (110, 0.35),
    "BTC": (120, 0.10),
    "FDUSD": (40, 0.30),
    "TRY": (90, 0.12),
    "EUR": (50, 0.08),
    "BNB": (50, 0.04),
    "ETH": (45, 0.04),
}

_MADE_UP = "MADEUP"
"""How the tickers of coins begin that are there for their number only."""

_NO_QUOTE_OF_ITSELF = {"BTC": {"BTC"}, "ETH": {"BTC", "ETH"}, "BNB": {"BTC", "ETH", "BNB"}}
_MONEY_PAIRS = (("USDC", "USDT"), ("FDUSD", "USDT"), ("EUR", "USDT"), ("USDT", "TRY"))

_DAILY_DOLLARS = 2.4e9
"""Turnover of the busiest symbol in a day; the others follow by activity."""


def build_assets(seed: int, made_up: int = 0) -> dict[str, Asset]:
    """Every asset by ticker, the busiest first. The seed varies prices and volatilities a little.

    ``made_up`` coins that nobody has heard of come after the others, which they leave as they are.
    """
    draw = random.Random(f"assets-{seed}")
    assets: dict[str, Asset] = {}
    for rank, (ticker, usd) in enumerate([*_priced(_COINS + _DELISTED), *_made_up(made_up)], start=1):
        calm = rank <= 2
        assets[ticker] = Asset(
            ticker=ticker,
            usd=usd * math.exp(draw.gauss(0, 0.02)),
            rank=rank,
            volatility=draw.uniform(0.15, 0.3) if calm else draw.uniform(0.45, 0.95),
            beta=draw.uniform(0.95, 1.1) if calm else draw.uniform(1.0, 1.6),
        )
    for ticker, (usd, volatility) in _MONEY.items():
        assets[ticker] = Asset(ticker=ticker, usd=usd, rank=len(assets) + 1, volatility=volatility, beta=0.0)
    return assets


def build_listings(assets: dict[str, Asset], seed: int) -> dict[str, Listing]:
    """Every symbol by name: some 700 and those of made-up coins; a few of them not trading."""
    draw = random.Random(f"listings-{seed}")
    delisted = {ticker for ticker, _ in _priced(_DELISTED)}
    listings: dict[str, Listing] = {}
    for base, quote, popularity in _pairs(assets, delisted):
        may_halt = assets[base].rank > 60 and not base.startswith(_MADE_UP)
        status = _status(base, draw, delisted=base in delisted, may_halt=may_halt)
        listing = _listing(assets[base], assets[quote], popularity, status)
        listings[listing.symbol] = listing
    return listings


def _priced(table: str) -> Iterator[tuple[str, float]]:
    words = table.split()
    return zip(words[::2], map(float, words[1::2]), strict=True)


def _made_up(count: int) -> Iterator[tuple[str, float]]:
    """Tickers and prices, from a hundred dollars down to a ten-thousandth of one."""
    for number in range(count):
        yield f"{_MADE_UP}{number:04d}", 10 ** (2 - number * 7 % 60 / 10)


def _pairs(assets: dict[str, Asset], delisted: set[str]) -> Iterator[tuple[str, str, float]]:
    coins = [ticker for ticker in assets if ticker not in _MONEY]
    for quote, (top, popularity) in _MARKETS.items():
        for base in coins[:top]:
            if base in delisted and quote != "USDT":
                continue
            if base not in _NO_QUOTE_OF_ITSELF.get(quote, ()):
                yield base, quote, popularity / assets[base].rank ** 0.9
    for base, quote in _MONEY_PAIRS:
        yield base, quote, 0.05


def _status(base: str, draw: random.Random, *, delisted: bool, may_halt: bool) -> SymbolStatus:
    if delisted:
        return "BREAK"
    if not may_halt or base in _MONEY or not base.isascii():
        return "TRADING"
    chance = draw.random()
    if chance < 0.01:
        return "HALT"
    return "BREAK" if chance < 0.03 else "TRADING"


def _listing(base: Asset, quote: Asset, activity: float, status: SymbolStatus) -> Listing:
    price = base.usd / quote.usd
    tick, step = _tick(price, quote.ticker), _step(base.usd)
    dollars = 400 + 6000 * activity**0.5
    return Listing(
        symbol=base.ticker + quote.ticker,
        base=base.ticker,
        quote=quote.ticker,
        tick=tick,
        step=step,
        min_notional=_min_notional(quote.ticker),
        typical_quantity=max(step, int(dollars / base.usd * ONE) // step * step),
        spread_bps=min(12.0, 0.05 / activity**0.9),
        activity=activity,
        status=status,
    )


def _tick(price: float, quote: str) -> int:
    """Five significant digits (four against coins), never finer than 1e-8, never coarser than a cent or a lira."""
    digits = 3 if quote in {"BTC", "ETH", "BNB"} else 4
    coarsest = {"TRY": 0, "EUR": -2}.get(quote, -2)
    exponent = min(coarsest, math.floor(math.log10(price)) - digits)
    return int(10 ** (max(-8, exponent) + 8))


def _step(usd: float) -> int:
    """A step of quantity is worth about a dollar, and at most one whole unit."""
    return int(10 ** (8 - max(0, math.ceil(math.log10(usd)))))


def _min_notional(quote: str) -> int:
    return {"BTC": ONE // 10_000, "ETH": ONE // 1000, "BNB": ONE // 100, "TRY": 100 * ONE}.get(quote, 5 * ONE)


def daily_turnover(listing: Listing) -> float:
    """What the symbol turns over in a day, in US dollars."""
    return _DAILY_DOLLARS * listing.activity
