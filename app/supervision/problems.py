"""What ends run.py with one line instead of a traceback."""

CONFIGURATION_EXIT_CODE = 78
"""``EX_CONFIG`` of sysexits.h: starting again cannot help."""


class StartProblem(Exception):
    """Tidemark cannot start or go on. The message says what is wrong and what to do about it."""

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code
