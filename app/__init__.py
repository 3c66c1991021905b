"""Tidemark: every trader's exact profit and loss, a fifth of a second behind the market."""

__version__ = "0.1.0"
