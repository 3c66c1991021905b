"""How many connections the process's file descriptors allow."""

import resource

_SHARE = 0.6
"""The part of the file descriptors that sockets of clients may take; the rest is for everything else."""


def connections_permitted(wanted: int) -> int:
    """The wanted number of connections, or as many as the limit of file descriptors has room for."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    return min(wanted, int(soft * _SHARE))
