"""The bench's C part: compiled on first use into a temporary folder, absent where there is no compiler."""

import atexit
import ctypes
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

_SOURCE: Final = Path(__file__).with_name("sockets.c")

MOST_MS: Final = 20_000
"""The last bucket of a histogram; all that took longer is in it."""

CLOSE_CODES: Final = 5000

SAMPLE_EVERY: Final = 8
SAMPLES: Final = 32_768

_Histogram = ctypes.c_uint64 * (MOST_MS + 1)


class Sample(ctypes.Structure):
    """``struct sample`` of sockets.c: an update's place in the stream; when it arrived and was read, in Unix µs."""

    _fields_ = [(name, ctypes.c_int64) for name in ("epoch", "seq", "arrived_us", "read_us")]


class Stats(ctypes.Structure):
    """``struct stats`` of sockets.c. Histograms are in milliseconds."""

    _fields_ = [
        *((name, ctypes.c_uint64) for name in ("updates", "snapshots", "others", "bytes", "reads", "merged")),
        *((name, ctypes.c_uint64) for name in ("ready", "closed", "broken")),
        *((name, _Histogram) for name in ("newest", "price", "flush", "shown", "lag")),
        ("codes", ctypes.c_uint64 * CLOSE_CODES),
        ("sampled", ctypes.c_uint64),
        ("samples", Sample * SAMPLES),
    ]


COUNTERS: Final = ("updates", "snapshots", "others", "bytes", "reads", "merged", "ready", "closed", "broken")
HISTOGRAMS: Final = ("newest", "price", "flush", "shown", "lag")


@cache
def library() -> ctypes.CDLL | None:
    """The compiled sockets.c, or None where it cannot be compiled."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    folder = tempfile.mkdtemp(prefix="tidemark-bench-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    target = Path(folder) / "sockets.so"
    built = subprocess.run(
        [compiler, "-O2", "-shared", "-fPIC", "-o", str(target), str(_SOURCE)], capture_output=True, check=False
    )
    return _declared(ctypes.CDLL(str(target))) if built.returncode == 0 else None


def _declared(sockets: ctypes.CDLL) -> ctypes.CDLL:
    pointer = ctypes.c_void_p
    sockets.reader_new.argtypes = [ctypes.c_uint32]
    sockets.reader_new.restype = pointer
    sockets.reader_add.argtypes = [pointer, ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t]
    sockets.reader_add.restype = ctypes.c_int
    sockets.reader_pump.argtypes = [pointer, ctypes.c_int64]
    sockets.reader_pump.restype = None
    sockets.reader_stats.argtypes = [pointer]
    sockets.reader_stats.restype = ctypes.POINTER(Stats)
    sockets.reader_updates.argtypes = [pointer]
    sockets.reader_updates.restype = ctypes.POINTER(ctypes.c_uint32)
    sockets.reader_reset.argtypes = [pointer]
    sockets.reader_reset.restype = None
    sockets.send_to_each.argtypes = [ctypes.POINTER(ctypes.c_int), ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t]
    sockets.send_to_each.restype = ctypes.c_int
    return sockets
