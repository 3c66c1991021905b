"""PostgreSQL and a Redis-compatible server from wheels: the one-command default, and the tests' servers."""
