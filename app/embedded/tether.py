"""Start a foreign program so that it never outlives the process that wants it.

This file is imported for :func:`spawn` and run as a script in between: the script
sheds root, asks the kernel for a signal at the parent's death and becomes the
program. Doing that in a ``preexec_fn`` instead would run Python between fork and
exec, which deadlocks when the parent has threads.
"""

import ctypes
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

_PR_SET_PDEATHSIG = 1


def die_with_parent(signum: int) -> None:
    """Have the kernel send ``signum`` to this process when its parent dies (Linux; elsewhere nothing).

    It is the death of the parent's *thread* that counts, so the parent has to
    spawn from one that lives as long as itself.
    """
    if sys.platform != "linux":
        return
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signum) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")


def tethered(command: Sequence[str | Path], *, death_signal: signal.Signals, user: str | None = None) -> list[str]:
    """The command that runs ``command`` so: signalled at the death of this process, as ``user`` when given."""
    prefix = [sys.executable, "-I", "-S", __file__, str(int(death_signal)), str(os.getpid()), user or ""]
    return [*prefix, *(str(part) for part in command)]


def spawn(
    command: Sequence[str | Path],
    *,
    directory: Path,
    death_signal: signal.Signals,
    user: str | None,
    log: IO[bytes] | int,
    env: Mapping[str, str],
) -> subprocess.Popen[bytes]:
    """Start ``command`` in ``directory``. Call it from the main thread only."""
    # A session of its own keeps a Ctrl-C at the terminal from reaching it: who started it stops it, in order.
    return subprocess.Popen(  # noqa: S603 - fixed programs, no shell
        tethered(command, death_signal=death_signal, user=user),
        cwd=directory,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def _become(user: str) -> None:
    account = pwd.getpwnam(user)
    os.setgroups([])
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)


def _main(arguments: Sequence[str]) -> None:
    signum, parent, user, *command = arguments
    if user:
        _become(user)
    # After the change of user, which clears it.
    die_with_parent(int(signum))
    if os.getppid() != int(parent):
        sys.exit("the parent died before its child began")
    os.execv(command[0], command)  # noqa: S606 - replacing this process is the purpose


if __name__ == "__main__":
    _main(sys.argv[1:])
