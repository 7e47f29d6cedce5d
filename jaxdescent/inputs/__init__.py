"""Checks of the numbers and counts that callers pass, and functions as pytrees."""
