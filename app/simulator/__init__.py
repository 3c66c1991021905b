"""A local exchange that speaks Binance's spot protocol: for demos, tests and benches."""
