"""How many connections the process's file descriptors allow."""

import resource

_SHARE = 0.6
"""The part of few file descriptors that sockets of clients may take; the rest is for everything else."""

_ENOUGH_FOR_THE_REST = 2_000
"""Servers, logs, and a crowd in its handshakes need no more than this, however many there are."""


def connections_permitted(wanted: int) -> int:
    """The wanted number of connections, or as many as the limit of file descriptors has room for."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    return min(wanted, max(int(soft * _SHARE), soft - _ENOUGH_FOR_THE_REST))
