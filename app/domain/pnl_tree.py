"""A user's P&L as a tree: user, account, strategy, symbol.

Every node is the sum of its children in one currency at one place in the
stream, to the last digit, for all are sums of the same reported leaves. What
rates did to cash belongs to an account's balances, not to any symbol: it stands
beside the sum, as ``fx_pnl`` of accounts and of the user.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from app.domain.decimals import format_units
from app.domain.pnl_snapshot import Valuation
from app.domain.positions import AccountBook, Realized
from app.domain.valuation import Totals, Valued

NodeKind: TypeAlias = Literal["user", "account", "strategy", "symbol", "adjustments"]


class ClosedLeaf(msgspec.Struct, frozen=True, kw_only=True):
    """What the closed positions of one symbol and strategy of an account realised, as reported."""

    account_id: str
    strategy: str
    symbol: str
    reported: Realized
    is_complete: bool


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """One place in the tree. Amounts in units of 1e-18 of the reporting currency."""

    kind: NodeKind
    name: str
    unrealized_pnl: int = 0
    realized: Realized = Realized()
    gross_exposure: int = 0
    net_exposure: int = 0
    open_positions: int = 0
    is_complete: bool = True
    is_stale: bool = False
    unpriced: tuple[str, ...] = ()
    totals: Totals | None = None
    """Of a user and of an account: the figures that its balances bring in."""
    children: tuple["Node", ...] = ()


def pnl_tree(user_id: str, valuation: Valuation, closed: Sequence[ClosedLeaf]) -> Node:
    """The tree of a valued book and of what closed in it."""
    accounts = [_account(account, totals, valuation.positions, closed) for account, totals in valuation.accounts]
    return _sum("user", user_id, accounts, valuation.totals)


def node_statement(node: Node) -> dict[str, Any]:
    """``Node`` of the contract: figures of positions in every node, of balances where there are any."""
    statement: dict[str, Any] = {
        "kind": node.kind,
        "name": node.name,
        "unrealized_pnl": format_units(node.unrealized_pnl),
        "realized_pnl": format_units(node.realized.net),
        "realized_pnl_gross": format_units(node.realized.gross),
        "fees": format_units(node.realized.fees),
        "funding": format_units(node.realized.funding),
        "total_pnl": format_units(node.realized.net + node.unrealized_pnl),
        "gross_exposure": format_units(node.gross_exposure),
        "net_exposure": format_units(node.net_exposure),
        "open_positions": node.open_positions,
        "is_complete": node.is_complete,
        "is_stale": node.is_stale,
        "unpriced": list(node.unpriced),
        "fx_pnl": None,
        "net_deposits": None,
        "equity": None,
        "children": [node_statement(child) for child in node.children],
    }
    if node.totals is not None:
        statement["fx_pnl"] = format_units(node.totals.fx_pnl)
        statement["net_deposits"] = format_units(node.totals.net_deposits)
        statement["equity"] = format_units(node.totals.equity)
    return statement


def _account(account: AccountBook, totals: Totals, positions: Iterable[Valued], closed: Iterable[ClosedLeaf]) -> Node:
    leaves: dict[tuple[str, str], list[Node]] = {}
    for one in positions:
        position = one.position
        if position.account_id == account.account_id:
            leaves.setdefault((position.strategy, position.symbol), []).append(_open_leaf(one))
    for leaf in closed:
        if leaf.account_id == account.account_id:
            leaves.setdefault((leaf.strategy, leaf.symbol), []).append(_closed_leaf(leaf))
    strategies: dict[str, list[Node]] = {}
    for (strategy, symbol), parts in sorted(leaves.items()):
        strategies.setdefault(strategy, []).append(_merged(symbol, parts))
    children = [_sum("strategy", strategy, symbols) for strategy, symbols in strategies.items()]
    adjustments = _adjustments(totals, children)
    if adjustments is not None:
        children.append(adjustments)
    return _sum("account", account.account_id, children, totals)


def _adjustments(totals: Totals, strategies: Iterable[Node]) -> Node | None:
    """What was realised by no position: corrections entered by hand."""
    traded = sum((node.realized for node in strategies), Realized())
    realized = Realized(
        gross=totals.realized.gross - traded.gross,
        fees=totals.realized.fees - traded.fees,
        funding=totals.realized.funding - traded.funding,
    )
    return None if realized == Realized() else Node(kind="adjustments", name="", realized=realized)


def _open_leaf(one: Valued) -> Node:
    worth = one.reported.unrealized_pnl
    is_priced = worth is not None
    value = one.exposure if is_priced else 0
    return Node(
        kind="symbol",
        name=one.position.symbol,
        unrealized_pnl=worth or 0,
        realized=one.reported.realized,
        gross_exposure=abs(value),
        net_exposure=value,
        open_positions=1,
        is_complete=is_priced and one.is_known,
        is_stale=is_priced and one.is_stale,
        unpriced=() if is_priced else (one.position.symbol,),
    )


def _closed_leaf(leaf: ClosedLeaf) -> Node:
    return Node(kind="symbol", name=leaf.symbol, realized=leaf.reported, is_complete=leaf.is_complete)


def _merged(symbol: str, parts: Sequence[Node]) -> Node:
    return msgspec.structs.replace(_sum("symbol", symbol, parts), children=())


def _sum(kind: NodeKind, name: str, children: Sequence[Node], totals: Totals | None = None) -> Node:
    return Node(
        kind=kind,
        name=name,
        unrealized_pnl=sum(child.unrealized_pnl for child in children),
        realized=sum((child.realized for child in children), Realized()),
        gross_exposure=sum(child.gross_exposure for child in children),
        net_exposure=sum(child.net_exposure for child in children),
        open_positions=sum(child.open_positions for child in children),
        is_complete=all(child.is_complete for child in children) and (totals is None or totals.is_complete),
        is_stale=any(child.is_stale for child in children),
        unpriced=tuple(sorted({name for child in children for name in child.unpriced})),
        totals=totals,
        children=tuple(children),
    )
