"""What child processes write: all of it to bounded files, what matters to the console."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

_FILE_LIMIT_BYTES = 5_000_000
_OLD_FILES = 2
_CONSOLE_LINES_PER_WINDOW = 10
_CONSOLE_WINDOW_S = 10.0
_SAME_EVENT_S = 60.0
_MOST_EVENTS = 200
_UNPARSED_LEVEL = re.compile(r"^.{0,80}?\b(debug|info|warning|error|critical|fatal)\b", re.IGNORECASE)
_DIGITS = re.compile(r"\d+")
_SHOWN_LEVELS = frozenset({"warning", "error", "critical", "fatal"})
_FRAME_KEYS = frozenset({"event", "level", "timestamp", "logger", "process", "exception"})


class Line(NamedTuple):
    """One line of a child's log, for people: how serious, the words, and what makes two lines the same event."""

    level: str
    text: str
    event: str


def read_line(raw: str) -> Line:
    """Understand a line: JSON as our processes write it, or whatever a library printed."""
    if raw.startswith("{"):
        try:
            return _from_record(json.loads(raw))
        except (ValueError, AttributeError, TypeError):
            pass
    level = _UNPARSED_LEVEL.match(raw)
    return Line(level[1].lower() if level else "info", raw, _DIGITS.sub("", raw))


def _from_record(record: dict[str, Any]) -> Line:
    details = " ".join(f"{key}={value}" for key, value in record.items() if key not in _FRAME_KEYS)
    level = str(record.get("level", "info"))
    text = f"{record.get('timestamp', '')} {level:8} {record.get('event', '')} {details}".strip()
    if exception := record.get("exception"):
        text = f"{text}\n{exception}"
    return Line(level, text, str(record.get("event", "")))


class LogFile:
    """A file that is moved aside when it reaches its size; the oldest is dropped."""

    def __init__(self, path: Path, *, limit_bytes: int = _FILE_LIMIT_BYTES) -> None:
        self.path = path
        self._limit = limit_bytes
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)
        self._size = path.stat().st_size

    def write(self, text: str) -> None:
        """Append a line. A full disk loses log lines and nothing else."""
        data = text.encode(errors="replace") + b"\n"
        try:
            if self._size + len(data) > self._limit:
                self._rotate()
            self._file.write(data)
            self._size += len(data)
        except OSError:
            return

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _rotate(self) -> None:
        self._file.close()
        for number in range(_OLD_FILES, 0, -1):
            older = self.path.with_name(f"{self.path.name}.{number}")
            newer = self.path if number == 1 else self.path.with_name(f"{self.path.name}.{number - 1}")
            if newer.exists():
                newer.replace(older)
        self._file = self.path.open("ab", buffering=0)
        self._size = 0


class ProcessOutput:
    """Where one child's lines go."""

    def __init__(
        self,
        name: str,
        file: LogFile,
        show: Callable[[str], None],
        *,
        as_json: bool = False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.file = file
        self.last_line = ""
        self._name = name
        self._show = show
        self._as_json = as_json
        self._now = now
        self._window_start = now()
        self._shown = 0
        self._last_shown: dict[str, float] = {}

    def take(self, raw: str) -> None:
        """Write one line down; show it when it is a warning or worse, no repetition and not one of very many."""
        line = read_line(raw)
        self.file.write(raw if self._as_json else line.text)
        if line.text.strip():
            self.last_line = line.text.strip().splitlines()[-1]
        if line.level in _SHOWN_LEVELS and not self._is_repetition(line.event):
            self._show_some(raw if self._as_json else f"{self._name}: {line.text.splitlines()[0]}")

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def _is_repetition(self, event: str) -> bool:
        now = self._now()
        if now - self._last_shown.get(event, -_SAME_EVENT_S) < _SAME_EVENT_S:
            return True
        if len(self._last_shown) >= _MOST_EVENTS:
            self._last_shown.clear()
        self._last_shown[event] = now
        return False

    def _show_some(self, text: str) -> None:
        now = self._now()
        if now - self._window_start >= _CONSOLE_WINDOW_S:
            self._window_start, self._shown = now, 0
        self._shown += 1
        if self._shown <= _CONSOLE_LINES_PER_WINDOW:
            self._show(text)
        elif self._shown == _CONSOLE_LINES_PER_WINDOW + 1:
            self._show(f"{self._name}: more of this in {self.file.path}")
