"""Tables as files: CSV, JSON and Parquet, a piece at a time."""
