"""A path to a server's socket that clients can use, however deep the data folder lies."""

import re
import shutil
import tempfile
from pathlib import Path

_LONGEST_SOCKET_PATH = 103
"""Bytes of ``sockaddr_un.sun_path`` without the final NUL: 107 on Linux, 103 on macOS."""

_PLAIN = re.compile(r"[A-Za-z0-9/._-]+")
"""Characters that no client library takes for a separator in a host or a URL."""


class SocketDirectory:
    """The name by which clients reach a directory holding a socket called ``socket_name``.

    The directory itself where its path is short and plain enough, else a link to it
    in a private folder. The servers bind relative to their working directory, so
    the limit binds clients only.
    """

    def __init__(self, directory: Path, socket_name: str) -> None:
        self._directory = directory
        self._socket_name = socket_name
        self._link_parent: Path | None = None

    def open(self) -> Path:
        """The path to use; the same until :meth:`close`."""
        if self._link_parent is not None:
            return self._link_parent / "s"
        longest = self._directory / self._socket_name
        if len(str(longest).encode()) <= _LONGEST_SOCKET_PATH and _PLAIN.fullmatch(str(longest)):
            return self._directory
        self._link_parent = Path(tempfile.mkdtemp(prefix="tidemark-"))
        link = self._link_parent / "s"
        link.symlink_to(self._directory, target_is_directory=True)
        return link

    def close(self) -> None:
        """Remove the link, if one was needed."""
        if self._link_parent is not None:
            shutil.rmtree(self._link_parent, ignore_errors=True)
            self._link_parent = None
