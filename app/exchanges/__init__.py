"""Exchanges: one package each. They give ticks to :mod:`app.domain.conflation` and know nothing of the bus."""
