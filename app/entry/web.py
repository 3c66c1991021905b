"""The web processes: gunicorn, configured by gunicorn.conf.py from the same settings."""

import os
from pathlib import Path
from typing import NoReturn

from app.entry.configuration import external_servers
from app.settings import Settings
from app.supervision.keeper import python_command

_PROJECT = Path(__file__).resolve().parents[2]


def web_command() -> tuple[str, ...]:
    """The command that serves; it reads its settings from the environment, in the project's folder."""
    return python_command("-m", "gunicorn", "app.main:app", "-c", "gunicorn.conf.py")


def serve(settings: Settings) -> NoReturn:
    """Become gunicorn. Raises StartProblem."""
    external_servers(settings)
    chosen = {"TIDEMARK_HOST": settings.host, "TIDEMARK_PORT": str(settings.port)}
    os.chdir(_PROJECT)
    command = web_command()
    os.execve(command[0], command, {**os.environ, **chosen})  # noqa: S606 - replacing this process is the purpose
