"""What the person at the console reads: steps with their times, notices, one address."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console


class Step:
    """Something being done; ``outcome`` is what there is to say once it is."""

    def __init__(self) -> None:
        self.outcome = ""


class Screen:
    """Progress on stdout, trouble on stderr, each a line."""

    def __init__(self) -> None:
        self._out = Console(highlight=False, markup=False, soft_wrap=True)
        self._err = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        self._began = time.monotonic()

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Show ``name`` while the block runs, and how long it took when it is done."""
        step = Step()
        started = time.monotonic()
        if self._out.is_terminal:
            with self._out.status(f"{name} …"):
                yield step
        else:
            yield step
        took = f"{time.monotonic() - started:.1f} s"
        self._out.print(f"  ✓ {name:<18} {took:>7}  {step.outcome}".rstrip(), style="none")

    def say(self, text: str) -> None:
        """A line that is part of the normal course."""
        self._out.print(text)

    def warn(self, text: str) -> None:
        """A line about trouble, on stderr."""
        self._err.print(text, style="yellow")

    def fail(self, text: str) -> None:
        """The line that says why it ends, on stderr."""
        self._err.print(f"tidemark: {text}", style="red")

    def address(self, url: str) -> None:
        """The last line of the start: where to go."""
        self._out.print(f"  Ready in {time.monotonic() - self._began:.1f} s. Open {url}", style="bold")
        sys.stdout.flush()
