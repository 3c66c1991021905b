"""Entry points: the only modules that turn settings into the plain values the rest is given."""
