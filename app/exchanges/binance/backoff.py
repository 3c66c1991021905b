"""How long to wait before trying again."""

import random
from collections.abc import Callable


class Backoff:
    """Exponential with full jitter: ``random(0, min(cap, base·2ⁿ))`` after ``n + 1`` failures.

    ``reset`` belongs to the moment data arrives, not to a successful connect: a
    server that accepts and stays silent must not be hammered.
    """

    def __init__(self, base_s: float, cap_s: float, uniform: Callable[[float, float], float] = random.uniform) -> None:
        self._base_s = base_s
        self._cap_s = cap_s
        self._uniform = uniform
        self._failures = 0

    def next_delay_s(self, at_least_s: float = 0.0) -> float:
        """Count a failure; the time to wait, never below what the server asked for."""
        # The exponent is bounded only so that the power stays a number.
        ceiling = min(self._cap_s, self._base_s * 2 ** min(self._failures, 64))
        self._failures += 1
        return max(at_least_s, self._uniform(0.0, ceiling))

    def reset(self) -> None:
        """Data has arrived: the next failure is a first one again."""
        self._failures = 0
