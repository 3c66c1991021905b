"""The stream: one process's connections, the newest state they see, and the fan-out between."""
