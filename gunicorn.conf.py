"""gunicorn's configuration, from the same settings as everything else.

``gunicorn app.main:app -c gunicorn.conf.py``
"""

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

# gunicorn reads this file before it looks for the application.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from app.asgi_worker import GRACE_S, raise_descriptor_limit
from app.settings import Settings

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter

_settings = Settings()
_host = f"[{_settings.host}]" if ":" in _settings.host else _settings.host

bind = [f"{_host}:{_settings.port}"]
workers = _settings.web_workers
worker_class = "app.asgi_worker.StreamWorker"
proc_name = "tidemark-web"
loglevel = _settings.log_level

backlog = 4096
keepalive = 5
# A worker whose loop stands still this long is replaced.
timeout = 30
# Above what the drain and uvicorn's own grace take together, so that gunicorn never kills a worker that is leaving.
graceful_timeout = math.ceil(_settings.drain_s) + GRACE_S + 4
# The code is loaded after the fork, so that a reload takes the new one.
preload_app = False
# Several copies run side by side on one machine; nothing here uses the socket.
control_socket_disable = True


def on_starting(server: "Arbiter") -> None:
    """Before the first worker: its limits are inherited by all."""
    warning = raise_descriptor_limit()
    if warning is not None:
        server.log.warning(warning)
