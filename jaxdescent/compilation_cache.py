"""Compiled programs that are kept on disk: ``jd.cache``."""


def cache() -> None:
    """Nothing yet."""
