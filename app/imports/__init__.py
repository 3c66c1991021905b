"""Imports of fills: a file read, checked, ordered and booked as one."""
