"""Measuring Tidemark: the whole system under load, and its parts one by one."""
