"""Binance, as a client of its public market data.

``spot`` is a market as the price worker sees it. Below it: ``line`` keeps one
connection up for ever, ``connection`` is one WebSocket, ``rest`` asks, and
``messages`` is the only place that knows Binance's one-letter names. The rules
of conduct are pure files of their own: ``backoff``, ``pacing``,
``weights``, ``liveness``, ``subscriptions``.
"""
