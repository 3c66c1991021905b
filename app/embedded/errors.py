"""What an embedded server says when it cannot run."""


class EmbeddedServerError(Exception):
    """The server could not be started; the message is one line for the person at the console."""
