"""Settings from the environment, options over them, and one line for each that is wrong."""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import SettingsError

from app.settings import Settings
from app.supervision.problems import CONFIGURATION_EXIT_CODE, StartProblem

_LOGIN = re.compile(r"^((?:.*?//)?[^:/@]*):.*@")
_PASSWORD_OPTION = re.compile(r"([?&][^=&]*password=)[^&]*")


def load_settings(**options: Any) -> Settings:
    """The settings, with the options that are not None over the environment. Raises StartProblem."""
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        faults = "\n".join(map(_fault, error.errors()))
        raise StartProblem(faults, exit_code=CONFIGURATION_EXIT_CODE) from None
    except (SettingsError, UnicodeDecodeError) as error:
        raise StartProblem(f"bad setting: {error}", exit_code=CONFIGURATION_EXIT_CODE) from None


def _variable(location: tuple[int | str, ...]) -> str:
    name = str(location[0]) if location else "?"
    return name if name.isupper() else f"TIDEMARK_{name.upper()}"


def _fault(fault: ErrorDetails) -> str:
    given = fault["input"]
    shown = redacted(given) if isinstance(given, str) else given
    return f"bad setting {_variable(fault['loc'])}={shown}: {fault['msg'].removeprefix('Value error, ')}"


def external_servers(settings: Settings) -> tuple[str, str]:
    """The URLs of PostgreSQL and Redis, for a process that does not bring its own. Raises StartProblem."""
    missing = [
        variable
        for variable, url in (("DATABASE_URL", settings.database_url), ("REDIS_URL", settings.redis_url))
        if not url
    ]
    if missing:
        raise StartProblem(
            f"{' and '.join(missing)} must be set for a single process; `run.py all` brings its own servers",
            exit_code=CONFIGURATION_EXIT_CODE,
        )
    assert settings.database_url is not None
    assert settings.redis_url is not None
    return settings.database_url, settings.redis_url


def redacted(url: str) -> str:
    """A URL that can be shown: without its passwords, rather too little than too much of it."""
    return _PASSWORD_OPTION.sub(r"\1***", _LOGIN.sub(r"\1:***@", url))


def effective_values(settings: Settings) -> Mapping[str, tuple[str, bool]]:
    """Each variable's value as shown to people, and whether it was set rather than defaulted."""
    values = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        shown = redacted(value) if isinstance(value, str) and "://" in value else str(value)
        values[f"TIDEMARK_{name.upper()}"] = (shown, name in settings.model_fields_set)
    return values
