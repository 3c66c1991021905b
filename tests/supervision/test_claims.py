"""Two copies never share a folder or a port; what a killed one left is waited for."""

import os
import socket
import threading
from pathlib import Path

import pytest

from app.supervision.claims import claimed_folder, ensure_port_is_free, free_port
from app.supervision.problems import StartProblem


def test_a_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    with claimed_folder(tmp_path / "deep" / "data"):
        assert (tmp_path / "deep" / "data").stat().st_mode & 0o077 == 0


def test_a_folder_can_be_claimed_again_after_it_was_given_up(tmp_path: Path) -> None:
    with claimed_folder(tmp_path) as was_killed, pytest.raises(StartProblem, match=f"process {os.getpid()}"):  # noqa: SIM117
        with claimed_folder(tmp_path):
            pass
    assert not was_killed

    with claimed_folder(tmp_path) as was_killed:
        assert not was_killed


def test_it_shows_that_the_one_before_was_killed(tmp_path: Path) -> None:
    (tmp_path / "run.lock").write_text("12345\n")

    with claimed_folder(tmp_path) as was_killed:
        assert was_killed


def test_a_port_that_a_killed_copy_still_drains_is_waited_for() -> None:
    port = free_port("127.0.0.1")
    listener = socket.create_server(("127.0.0.1", port))
    with pytest.raises(StartProblem, match=f"port {port} on 127.0.0.1 is in use"):
        ensure_port_is_free("127.0.0.1", port, option="--port", variable="TIDEMARK_PORT")

    threading.Timer(0.2, listener.close).start()

    ensure_port_is_free("127.0.0.1", port, option="--port", variable="TIDEMARK_PORT", patience_s=20.0)
