"""The compiled part of the fan-out, ``fanout.c``: built where there is a C compiler, done without where there is none.

``python -m app.websocket.compiled`` builds it beside its source. Nothing is said to clients that the Python around it
would not say: it writes the ordinary frames in a tenth of the time, and leaves everything else alone.
"""

import ctypes
import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from app.websocket import tables

_SOURCE: Final = Path(__file__).with_name("fanout.c")
LIBRARY: Final = Path(__file__).with_name("fanout.compiled")
SHARED: Final = ("-std=gnu11", "-shared", "-fPIC")
_OPTIONS: Final = ("-O2", *SHARED)
_COMPILERS: Final = ("cc", "gcc", "clang")
_WITHIN_S: Final = 60

NOTHING, FRAME, ASK, BREACH = range(4)
"""What became of a connection: ``struct outcome`` in the source."""

OUTCOME: Final = np.dtype([("start", "i8"), ("text", "i8"), ("end", "i8"), ("kind", "i4"), ("gone", "i4")], align=True)

_pointer = ctypes.c_void_p
_long = ctypes.c_int64


class LaneRecord(ctypes.Structure):
    """``struct lane``."""

    _fields_ = (
        *(
            pair
            for name in ("rows", "users", "marks", "lists")
            for pair in ((name, _pointer), (f"{name}_length", _long))
        ),
        *((name, _long) for name in ("epoch", "seq", "as_of_ms", "event_ms", "step", "silenced", "is_silent")),
    )


class StreamRecord(ctypes.Structure):
    """``struct stream``."""

    _fields_ = (
        *(
            pair
            for name in ("lanes", "prices", "connections", "lists")
            for pair in ((name, _pointer), (f"{name}_length", _long))
        ),
        *((name, _long) for name in ("ordinal", "flushes", "health", "written", "merged")),
    )


class Unusable(Exception):
    """There is no library, or not one of this source and these tables. The text says which."""


def _source_hash() -> str:
    return hashlib.sha256(_SOURCE.read_bytes()).hexdigest()


def build(target: Path = LIBRARY, options: Sequence[str] = _OPTIONS) -> None:
    """Compile the source. Raises Unusable where that cannot be done."""
    compiler = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        raise Unusable("there is no C compiler")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="build-") as folder:
        made = Path(folder) / target.name
        command = [compiler, *options, f'-DSOURCE="{_source_hash()}"', "-o", str(made), str(_SOURCE)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_WITHIN_S)  # noqa: S603
        if done.returncode:
            raise Unusable(f"{Path(compiler).name} failed: {done.stderr.strip()[-500:]}")
        # In one step: processes that run keep the file they have.
        made.replace(target)


def load(path: Path = LIBRARY) -> ctypes.CDLL:
    """The library. Raises Unusable."""
    if not path.exists():
        raise Unusable("it is not built")
    try:
        library = ctypes.CDLL(str(path))
        source = ctypes.string_at(ctypes.addressof(ctypes.c_char.in_dll(library, "fanout_source"))).decode()
        layout = list((_long * len(_layout())).in_dll(library, "fanout_layout"))
    except (OSError, ValueError) as error:
        raise Unusable(str(error)) from error
    if source != _source_hash():
        raise Unusable("it was built from another source")
    if layout != _layout():
        raise Unusable("its tables are laid out otherwise")
    return _declared(library)


def _layout() -> list[int]:
    """What ``fanout_layout`` holds: sizes of records, and places in them."""
    asked: list[tuple[np.dtype[Any], tuple[str, ...]]] = [
        (tables.ROW, ("head", "owner")),
        (tables.USER, ("rows_at", "is_plain")),
        (tables.MARK, ("text", "length")),
        (tables.PRICE, ("text", "length")),
        (tables.CONNECTION, ("status", "is_bound")),
    ]
    return [number for kind, names in asked for number in (kind.itemsize, *(_offset(kind, name) for name in names))]


def _offset(kind: np.dtype[Any], name: str) -> int:
    assert kind.fields is not None
    return int(kind.fields[name][1])


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    library.fanout_write.argtypes = [_pointer, _pointer, _long, _pointer, _long, _long, _pointer]
    library.fanout_write.restype = _long
    library.fanout_send.argtypes = [_pointer, _pointer, _pointer, _long]
    library.fanout_send.restype = None
    return library


def main() -> None:
    """Build it where it is not there, or not of this source. That it cannot be built is no failure."""
    try:
        load()
        LIBRARY.touch()
    except Unusable:
        try:
            build()
        except Unusable as error:
            sys.stdout.write(f"The fan-out is not compiled ({error}): frames are written by Python, at more CPU.\n")


if __name__ == "__main__":
    main()
