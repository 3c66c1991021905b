"""Running Tidemark's processes on one machine: starting, watching, restarting, stopping, telling."""
