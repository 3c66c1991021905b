"""The folder where files lie that are to be imported: one file for each import, gone when it is finished."""

import os
import re
from pathlib import Path
from typing import BinaryIO

_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_COMPLETE = ".upload"
_ARRIVING = ".part"
_SPOOL = ".spool"


class ImportFolder:
    """Names and files. Made when first written to."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def file(self, import_id: str) -> Path:
        """Where the file of an import lies."""
        return self._path / f"{import_id}{_COMPLETE}"

    def spool(self, import_id: str) -> Path:
        """Where its fills are put in order."""
        return self._path / f"{import_id}{_SPOOL}"

    def begin(self, import_id: str) -> BinaryIO:
        """A file to write into as it arrives. Raises OSError."""
        self._path.mkdir(parents=True, exist_ok=True, mode=0o700)
        return (self._path / f"{import_id}{_ARRIVING}").open("wb")

    def complete(self, import_id: str, file: BinaryIO) -> None:
        """It has arrived whole: keep it over a crash. Raises OSError."""
        file.flush()
        os.fsync(file.fileno())
        file.close()
        (self._path / f"{import_id}{_ARRIVING}").rename(self.file(import_id))

    def forget(self, import_id: str) -> None:
        """Remove all files of an import."""
        for suffix in (_COMPLETE, _ARRIVING, _SPOOL):
            (self._path / f"{import_id}{suffix}").unlink(missing_ok=True)

    def kept(self) -> dict[str, float]:
        """The imports that have a file, and when it was last written to (Unix seconds)."""
        found: dict[str, float] = {}
        if self._path.is_dir():
            for entry in os.scandir(self._path):
                import_id, _, suffix = entry.name.partition(".")
                if f".{suffix}" in (_COMPLETE, _ARRIVING, _SPOOL) and _ID.fullmatch(import_id):
                    found[import_id] = max(found.get(import_id, 0.0), entry.stat().st_mtime)
        return found
