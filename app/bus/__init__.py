"""Redis: the keys, the messages and the few operations on them. Nothing here is the truth."""
