"""Users and accounts, as the command line names them."""

from sqlalchemy.ext.asyncio import AsyncConnection

from app.repositories.accounts import Account, AccountRepository
from app.repositories.users import UserRepository
from app.supervision.problems import StartProblem


async def find_account_of(connection: AsyncConnection, username: str, account: str | None) -> tuple[str, Account]:
    """A user's id, and the account with a name or id (None: the default one). Raises StartProblem."""
    user = await UserRepository(connection).credentials(username)
    if user is None:
        raise StartProblem(f"there is no user {username}")
    accounts = await AccountRepository(connection).of_user(user.user_id)
    for one in accounts:
        if account is None or account in {one.name, one.account_id}:
            return user.user_id, one
    names = ", ".join(one.name for one in accounts)
    raise StartProblem(f"{username} has no account {account}; there are {names}")
