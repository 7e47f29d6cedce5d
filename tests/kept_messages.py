"""The messages of several processes, kept in one of them."""

import contextlib
import json
import threading
import time

import jax
from jax._src import distributed

from jaxdescent.processes import ending, messages


class KeptMessages:
    """Stands for the coordination service: what this process leaves, and what others would."""

    def __init__(self):
        self.texts = {}
        self.is_reached = True

    def key_value_set(self, key, text, *, allow_overwrite):
        self._reach()
        if not allow_overwrite and key in self.texts:
            raise jax.errors.JaxRuntimeError(f"ALREADY_EXISTS: Config key {key} already exists.")
        self.texts[key] = text

    def key_value_delete(self, key):
        self._reach()
        self.texts.pop(key, None)

    def key_value_dir_get(self, folder):
        self._reach()
        return [(key, text) for key, text in self.texts.items() if key.startswith(folder)]

    def blocking_key_value_get(self, key, milliseconds):
        self._reach()
        if key not in self.texts:
            time.sleep(milliseconds / 1000)
            raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: GetKeyValue() timed out")
        return self.texts[key]

    def _reach(self):
        if not self.is_reached:
            raise jax.errors.JaxRuntimeError("UNAVAILABLE: connection\nrefused")

    @classmethod
    def put_in_place(cls, monkeypatch):
        """In place of the service, in a run of two processes of which this is the first."""
        kept = cls()
        jax.devices()  # which the service would have told of those of others
        monkeypatch.setattr(distributed.global_state, "client", kept)
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        monkeypatch.setattr(messages, "LOOK_SECONDS", 0.01)
        # A command that another test interrupted in this process is none of this run.
        monkeypatch.setattr(ending, "was_interrupted", threading.Event())
        return kept

    def end(self, process, kind, said=""):
        messages.leave(f"end/{process}", json.dumps([kind, said]))

    def ended(self, process):
        return json.loads(messages.found("end")[str(process)])


def fail_by_a_signal(is_lost):
    """Fail as modules in C do where a signal interrupts them: with word of what the error came of,
    or with none, so that only the handler of the signal knows.
    """
    if is_lost:
        ending.was_interrupted.set()
    raise jax.errors.JaxRuntimeError("INTERNAL") from None if is_lost else KeyboardInterrupt()


@contextlib.contextmanager
def after(seconds, work, *arguments):
    """A context in which a thread does some work, so many seconds from its beginning."""
    timer = threading.Timer(seconds, work, arguments)
    timer.start()
    yield
    timer.join()
