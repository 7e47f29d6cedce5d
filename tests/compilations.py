"""The programs that a call compiles, and that are kept."""

import jax

from jaxdescent.calls import programs


def forget_programs():
    """As in a process that begins."""
    programs._compiled.cache_clear()
    jax.clear_caches()


def compiled_by(call, monkeypatch):
    """The names of the functions whose programs a call compiles, or finds among those kept."""
    names, plain = [], programs._compiled

    def recorded(function, *rest):
        names.append(function.__name__)
        return plain(function, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(programs, "_compiled", recorded)
        programs._compiled.__wrapped__ = plain.__wrapped__
        call()
    return names
