"""What callers pass: numbers and counts, looked at; functions, as pytrees."""
