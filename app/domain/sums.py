"""What a user realised and what his transfers brought, kept up to date change by change.

An open and a closed position count alike, so a closing moves nothing but the
figures that it changed. All in units of 1e-18.
"""

from collections.abc import Iterable

import msgspec

from app.domain.positions import AccountBook, Position, is_known, realized_of, reported_of


class Balance(msgspec.Struct):
    """Cash of an account in another asset than its user's currency: base of the currency effect."""

    held: int = 0
    """In the asset."""
    booked: int = 0
    """In the currency, each part at the rate of its own time."""


class Sums(msgspec.Struct):
    """Sums of reported leaves, and the balances in other assets than ``currency``."""

    currency: str
    gross: int = 0
    fees: int = 0
    funding: int = 0
    deposited: int = 0
    incomplete: int = 0
    """How many parts lack the rate of a fee or of their time."""
    balances: dict[tuple[str, str], Balance] = {}
    """By account and asset."""

    @classmethod
    def of(cls, accounts: Iterable[AccountBook], positions: Iterable[Position], currency: str) -> "Sums":
        """Add up a whole user."""
        sums = cls(currency)
        for account in accounts:
            sums._count_account(account)
        for position in positions:
            sums.count(position, 1)
        return sums

    @property
    def realized(self) -> int:
        return self.gross - self.fees + self.funding

    @property
    def is_complete(self) -> bool:
        return not self.incomplete

    @property
    def assets(self) -> set[str]:
        """The other assets."""
        return {asset for _, asset in self.balances}

    def count(self, position: Position, sign: int) -> None:
        """Add (1) or take away (-1) what a position realised."""
        reported = reported_of(position)
        self.gross += sign * reported.gross
        self.fees += sign * reported.fees
        self.funding += sign * reported.funding
        if not is_known(position):
            self.incomplete += sign
        settle = position.instrument.settle
        if settle != self.currency:
            self._balance(position.account_id, settle, sign * realized_of(position).net, sign * reported.net)

    def _count_account(self, account: AccountBook) -> None:
        for book in account.assets:
            self.gross += book.reported.gross
            self.fees += book.reported.fees
            self.funding += book.reported.funding
            self.deposited += book.deposited_reported
            self.incomplete += not book.is_complete
            if book.asset != self.currency:
                held, booked = book.realized.net + book.deposited, book.reported.net + book.deposited_reported
                self._balance(account.account_id, book.asset, held, booked)

    def _balance(self, account_id: str, asset: str, held: int, booked: int) -> None:
        balance = self.balances.setdefault((account_id, asset), Balance())
        balance.held += held
        balance.booked += booked
