"""The shapes of answers, for the OpenAPI document. Tests hold real answers against them."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.domain.import_formats import FormatName
from app.domain.prices import Basis, ValueSource

_AMOUNT = r"^-?[0-9]+(\.[0-9]+)?$"


class Body(BaseModel):
    """Part of an answer."""

    model_config = ConfigDict(extra="forbid")


class Fault(Body):
    """One thing that is wrong: where (in the body, the query or a header), and how."""

    pointer: str | None = None
    parameter: str | None = None
    header: str | None = None
    path: str | None = None
    field: str
    code: str
    detail: str


class ProblemBody(Body):
    """An error, as in RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[Fault]


class Registered(Body):
    user_id: str
    username: str


class LoggedIn(Registered):
    expires_at: str


class SessionBody(Body):
    session_id: str
    is_current: bool
    client: str
    created_at: str
    seen_at: str
    expires_at: str


class SessionList(Body):
    items: list[SessionBody]
    next_cursor: str | None


class TokenBody(Body):
    token_id: str
    name: str
    scopes: list[Literal["read", "trade"]]
    created_at: str


class TokenCreated(TokenBody):
    token: str | None = Field(description="The token, this once; null when the answer is repeated.")


class TokenList(Body):
    items: list[TokenBody]
    next_cursor: str | None


class AccountBody(Body):
    account_id: str
    name: str
    kind: Literal["manual", "paper", "exchange"]
    currency: str
    position_mode: Literal["one_way", "hedge"]
    valuation: Basis


class AccountList(Body):
    items: list[AccountBody]
    next_cursor: str | None


class TransferBody(Body):
    """Money that came (positive) or went (negative)."""

    transfer_id: str
    account_id: str
    kind: Literal["deposit", "withdrawal", "internal", "adjustment"]
    asset: str
    amount: str = Field(pattern=_AMOUNT)
    rate_to_reporting: str | None = Field(pattern=_AMOUNT)
    other_account_id: str | None
    note: str | None
    at: str
    created_at: str


class TransferList(Body):
    items: list[TransferBody]
    next_cursor: str | None


class UserSettings(Body):
    currency: str
    time_zone: str
    stale_after_ms: int
    max_open_positions: int


class Me(Body):
    user_id: str
    username: str
    created_at: str
    scopes: list[Literal["read", "trade"]]
    accounts: list[AccountBody]
    settings: UserSettings


class PositionBody(Body):
    """A position at current prices. Amounts are in ``settle_asset``; ``_pct`` is a fraction."""

    position_id: str
    account_id: str
    symbol: str
    market: Literal["spot", "linear", "inverse"]
    position_side: Literal["net", "long", "short"]
    side: Literal["long", "short", "flat"]
    quantity: str = Field(pattern=_AMOUNT)
    signed_qty: str = Field(pattern=_AMOUNT)
    entry_price: str | None = Field(pattern=_AMOUNT)
    cost_basis: str = Field(pattern=_AMOUNT)
    mark_price: str | None = Field(pattern=_AMOUNT)
    price_source: ValueSource | None
    mark_age_ms: int | None
    is_stale: bool
    market_value: str | None = Field(pattern=_AMOUNT)
    unrealized_pnl: str | None = Field(pattern=_AMOUNT)
    unrealized_pnl_pct: str | None = Field(pattern=_AMOUNT)
    realized_pnl: str = Field(pattern=_AMOUNT)
    realized_pnl_gross: str = Field(pattern=_AMOUNT)
    fees: str = Field(pattern=_AMOUNT)
    fees_unpriced: dict[str, str]
    funding: str = Field(pattern=_AMOUNT)
    total_pnl: str | None = Field(pattern=_AMOUNT)
    settle_asset: str
    rate_to_reporting: str | None = Field(
        pattern=_AMOUNT, description="Reporting units per settle unit now; null while it is not known."
    )
    unrealized_pnl_reported: str | None = Field(pattern=_AMOUNT)
    realized_pnl_reported: str = Field(pattern=_AMOUNT, description="At the rates of its times.")
    strategy: str | None
    note: str | None
    take_profit: str | None = Field(pattern=_AMOUNT)
    stop_loss: str | None = Field(pattern=_AMOUNT)
    status: Literal["open", "closed"]
    opened_at: str
    updated_at: str
    closed_at: str | None
    version: int


class PositionList(Body):
    items: list[PositionBody]
    next_cursor: str | None


class TradeBody(Body):
    """A recorded fill. ``trade_id`` is the sender's own id, ``fill_id`` ours."""

    fill_id: str
    trade_id: str | None
    account_id: str
    symbol: str
    position_id: str
    opened_position_id: str | None
    side: Literal["buy", "sell"]
    position_side: Literal["net", "long", "short"]
    quantity: str = Field(pattern=_AMOUNT)
    price: str = Field(pattern=_AMOUNT)
    fee: str = Field(pattern=_AMOUNT)
    fee_asset: str | None
    fee_rate: str | None = Field(pattern=_AMOUNT)
    rate_to_reporting: str | None = Field(pattern=_AMOUNT)
    strategy: str | None
    source: str
    executed_at: str
    created_at: str
    revision: int = Field(description="Grows with every edit. Its ETag.")


class TradeRecorded(Body):
    trade: TradeBody
    position: PositionBody


class TradeDeleted(Body):
    """A trade that is no more, and the positions that changed with it, as they are now."""

    trade: TradeBody
    positions: list[PositionBody]


class TradeRevision(Body):
    """An earlier form of a trade, and what ended it: which change, why, when, and the event that told of it."""

    trade: TradeBody
    change: Literal["edited", "deleted", "retagged"]
    reason: str | None
    at: str
    event_seq: int


class TradeRevisionList(Body):
    items: list[TradeRevision]
    next_cursor: None


class TradeList(Body):
    items: list[TradeBody]
    next_cursor: str | None


class RealizedFigures(Body):
    settle_asset: str
    realized_pnl_gross: str = Field(pattern=_AMOUNT)
    fees: str = Field(pattern=_AMOUNT)
    funding: str = Field(pattern=_AMOUNT)
    realized_pnl: str = Field(pattern=_AMOUNT, description="realized_pnl_gross - fees + funding")


class RealizedRow(RealizedFigures):
    """What one symbol realised. Cost and proceeds are negative where shorts were bought back."""

    symbol: str
    closing_trades: int
    quantity_closed: str = Field(pattern=_AMOUNT)
    cost: str = Field(pattern=_AMOUNT)
    proceeds: str = Field(pattern=_AMOUNT)
    fees_unpriced: dict[str, str]


class RealizedTotals(RealizedFigures):
    """The sums of the rows in one asset."""

    is_complete: bool = Field(description="Whether every fee is valued.")


class RealizedReport(Body):
    """What was realised in a period, from its first moment to before its last."""

    method: Literal["fifo", "lifo", "average"]
    from_: str | None = Field(alias="from")
    to: str | None
    items: list[RealizedRow]
    totals: list[RealizedTotals]


class FundingBody(Body):
    """What a position received (positive) or paid at a funding stamp, in the settle asset."""

    position_id: str
    symbol: str
    at: str
    signed_qty: str = Field(pattern=_AMOUNT)
    mark_price: str = Field(pattern=_AMOUNT)
    rate: str = Field(pattern=_AMOUNT)
    amount: str = Field(pattern=_AMOUNT)
    rate_to_reporting: str | None = Field(pattern=_AMOUNT)


class FundingList(Body):
    items: list[FundingBody]
    next_cursor: str | None


class TotalsBody(Body):
    """Sums over positions in ``currency``. What could not be summed is named in ``unpriced``."""

    currency: str
    unrealized_pnl: str = Field(pattern=_AMOUNT)
    realized_pnl: str = Field(pattern=_AMOUNT)
    realized_pnl_gross: str = Field(pattern=_AMOUNT)
    fees: str = Field(pattern=_AMOUNT)
    funding: str = Field(pattern=_AMOUNT)
    total_pnl: str = Field(pattern=_AMOUNT)
    fx_pnl: str = Field(
        pattern=_AMOUNT, description="What exchange rates did to balances in other assets; not in total_pnl."
    )
    net_deposits: str = Field(pattern=_AMOUNT)
    day_pnl: str | None = Field(pattern=_AMOUNT)
    equity: str = Field(pattern=_AMOUNT, description="net_deposits + total_pnl + fx_pnl")
    gross_exposure: str = Field(pattern=_AMOUNT)
    net_exposure: str = Field(pattern=_AMOUNT)
    is_complete: bool
    is_stale: bool
    unpriced: list[str]
    oldest_price_age_ms: int | None


class AccountTotals(Body):
    account_id: str
    name: str
    totals: TotalsBody


class Pnl(Body):
    """All open positions and their totals, at one place in the stream."""

    as_of_ms: int
    epoch: int
    seq: int
    ledger_seq: int
    currency: str
    totals: TotalsBody
    accounts: list[AccountTotals]
    positions: list[PositionBody]


class SymbolBody(Body):
    symbol: str
    market: Literal["spot", "linear", "inverse"]
    base: str
    quote: str
    settle: str
    tick_size: str
    step_size: str
    multiplier: str
    status: Literal["trading", "halted", "delisted"]


class SymbolList(Body):
    items: list[SymbolBody]
    next_cursor: str | None


class PriceBody(Body):
    """The newest price of a symbol; all null where there is none yet."""

    symbol: str
    price: str | None
    price_source: Literal["mid", "last", "mark"] | None
    bid: str | None
    ask: str | None
    last: str | None
    mark: str | None = Field(default=None, description="What values a contract; null on spot.")
    funding_rate: str | None = Field(
        default=None, description="What a perpetual is expected to exchange next, as a share of its value."
    )
    next_funding_ms: int | None = Field(default=None, description="When it will.")
    event_ms: int | None
    received_ms: int | None
    fresh_ms: int | None
    age_ms: int | None
    is_stale: bool


class PriceList(Body):
    as_of_ms: int
    items: list[PriceBody]
    next_cursor: str | None


class FeedBody(Body):
    state: Literal["live", "stale", "down", "simulated"]
    source: str
    age_ms: int | None
    simulated: bool
    markets: dict[Literal["spot", "linear", "inverse"], Literal["live", "stale", "down", "simulated"]] | None = Field(
        default=None, description="The state of each market; the one above is that of the worst that is needed."
    )


class Health(Body):
    status: Literal["ready", "unavailable"]
    failing: list[str]
    feed: FeedBody
    checks: dict[str, str] | None = None


class PnlNode(Body):
    """A node of the tree: the sum of its children. Figures of balances are those of accounts and of the user."""

    kind: Literal["user", "account", "strategy", "symbol", "adjustments"]
    name: str
    unrealized_pnl: str = Field(pattern=_AMOUNT)
    realized_pnl: str = Field(pattern=_AMOUNT)
    realized_pnl_gross: str = Field(pattern=_AMOUNT)
    fees: str = Field(pattern=_AMOUNT)
    funding: str = Field(pattern=_AMOUNT)
    total_pnl: str = Field(pattern=_AMOUNT)
    gross_exposure: str = Field(pattern=_AMOUNT)
    net_exposure: str = Field(pattern=_AMOUNT)
    open_positions: int
    is_complete: bool
    is_stale: bool
    unpriced: list[str]
    fx_pnl: str | None = Field(pattern=_AMOUNT)
    net_deposits: str | None = Field(pattern=_AMOUNT)
    equity: str | None = Field(pattern=_AMOUNT)
    children: list["PnlNode"]


class PnlTree(Body):
    """The P&L of a user by account, strategy and symbol, at one place in the stream."""

    as_of_ms: int
    epoch: int
    seq: int
    ledger_seq: int
    currency: str
    root: PnlNode


_Amount = Annotated[str, Field(pattern=_AMOUNT)]


class PnlSample(Body):
    """What accounts were worth: a minute's sample, or the candle of an hour or a day.

    ``open`` to ``close`` are of total P&L with the currency effect, so that no
    deposit moves them; an hour or a day with a flow has a candle for each side of
    it. Minutes in which nothing changed have no sample of their own.
    """

    opened_at: str
    at: str
    equity: _Amount | None
    total_pnl: _Amount | None
    realized_pnl: _Amount
    realized_pnl_gross: _Amount
    fees: _Amount
    funding: _Amount
    unrealized_pnl: _Amount | None
    fx_pnl: _Amount | None
    net_deposits: _Amount
    open: _Amount | None
    high: _Amount | None
    low: _Amount | None
    close: _Amount | None
    is_complete: bool
    is_stale: bool


class PnlHistory(Body):
    items: list[PnlSample]
    next_cursor: str | None


class PnlChange(Body):
    """A change between two moments; ``from`` and ``to`` are when the figures used were sampled.

    ``equity at the end - equity at the start = pnl + fx_pnl + flows``. ``pct`` is
    pnl with fx_pnl over the equity at the start and what was deposited since.
    """

    from_: str | None = Field(alias="from")
    to: str | None
    pnl: _Amount | None
    realized_pnl: _Amount | None
    unrealized_change: _Amount | None
    fees: _Amount | None
    funding: _Amount | None
    fx_pnl: _Amount | None
    flows: _Amount | None
    pct: _Amount | None
    is_complete: bool


class PnlDay(PnlChange):
    """A day in the user's time zone: 23 to 25 hours. ``revision`` grows when the ledger corrects what is past."""

    day: str
    start: str
    end: str
    revision: int


class PnlDaily(Body):
    account_id: str | None
    currency: str
    time_zone: str
    pnl_24h: PnlChange
    items: list[PnlDay]


class PnlPerformance(Body):
    """Of the flow-adjusted curve. Fractions; null is undefined.

    ``twr`` is of the newest unbroken chain: one breaks where equity is not
    positive. ``sharpe`` and ``sortino`` need 30 daily returns, are annualised by
    ``periods_per_year``, with a risk-free rate of zero.
    """

    twr: _Amount | None
    twr_from: str | None
    cagr: _Amount | None
    calmar: _Amount | None
    chain_breaks: int
    sharpe: _Amount | None
    sortino: _Amount | None
    daily_returns: int
    periods_per_year: int
    drawdown: _Amount | None
    drawdown_pct: _Amount | None
    max_drawdown: _Amount | None
    max_drawdown_pct: _Amount | None
    high_water_mark: _Amount | None
    high_water_mark_at: str | None
    under_water_s: int | None
    longest_under_water_s: int | None


class TradeStatisticsBody(Body):
    """Of cycles that closed: net profit, fees and funding included, in the reporting currency.

    ``mae`` and ``mfe`` are the lowest and highest unrealised profit that minute
    samples saw, of cycles that settle in the reporting currency.
    """

    closed_count: int
    win_count: int
    loss_count: int
    breakeven_count: int
    net_pnl: _Amount
    gross_win: _Amount
    gross_loss: _Amount
    win_rate: _Amount | None
    profit_factor: _Amount | None
    expectancy: _Amount | None
    average_win: _Amount | None
    average_loss: _Amount | None
    largest_win: _Amount | None
    largest_loss: _Amount | None
    average_hold_s: int | None
    longest_winning_streak: int
    longest_losing_streak: int
    current_streak: int
    average_mae: _Amount | None
    average_mfe: _Amount | None
    worst_mae: _Amount | None
    best_mfe: _Amount | None


class PnlCycle(Body):
    """A closed cycle, in the reporting currency.

    ``mae`` and ``mfe`` are the lowest and highest unrealised profit that minute
    samples saw: null where none did, and for what settles in another asset.
    ``efficiency`` is the net profit over ``mfe``.
    """

    position_id: str
    account_id: str
    symbol: str
    opened_at: str
    closed_at: str
    hold_s: int
    net_pnl: _Amount
    mae: _Amount | None
    mfe: _Amount | None
    efficiency: _Amount | None


class PnlCycles(Body):
    items: list[PnlCycle]
    next_cursor: str | None


class PnlStatistics(Body):
    account_id: str | None
    currency: str
    from_: str | None = Field(alias="from")
    to: str
    performance: PnlPerformance
    trades: TradeStatisticsBody
    is_truncated: bool


class PnlParts(Body):
    """What each cause added to P&L; ``total`` is their sum, to the last digit."""

    price: _Amount
    trading: _Amount
    fees: _Amount
    funding: _Amount
    fx: _Amount
    adjustments: _Amount
    total: _Amount


class SymbolParts(PnlParts):
    symbol: str


class PnlExplanation(Body):
    """Why P&L with the currency effect changed. ``unknown`` are symbols without a mark at one end: in no sum."""

    account_id: str | None
    currency: str
    from_: str = Field(alias="from")
    to: str
    total: PnlParts
    symbols: list[SymbolParts]
    unknown: list[str]
    is_complete: bool


class ImportBody(Body):
    """An import of a file of fills: how far it is, or how it ended. ``rows_total`` is null until the file is read."""

    import_id: str
    account_id: str
    state: Literal["waiting", "running", "done", "refused", "failed", "cancelled"]
    dry_run: bool
    format: FormatName | None
    size_bytes: int
    bytes_read: int
    rows_total: int | None
    rows_read: int
    rows_booked: int
    repeated_in_file: int
    repeated_in_ledger: int
    error_count: int
    reason: str | None
    created_at: str
    finished_at: str | None


class ImportList(Body):
    items: list[ImportBody]
    next_cursor: str | None


class ImportFault(Body):
    """What is wrong with a row (a header is row 1); ``row`` is null where the whole file is meant."""

    row: int | None
    column: str | None
    reason: str


class ImportFaultList(Body):
    items: list[ImportFault]
    next_cursor: str | None
