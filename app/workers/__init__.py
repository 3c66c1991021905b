"""Single-owner work: each worker holds a lease, and ends loudly when something is wrong."""
