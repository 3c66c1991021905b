"""The arithmetic and the rules. No I/O, no event loop, no clock, no logging."""
