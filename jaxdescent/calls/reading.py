"""Programs that read rows while they run: they can be interrupted, and reading errors are raised.

Python handles Ctrl-C in the main thread alone, and not while this thread waits for XLA; and XLA
turns an exception of a callback into a text. So such a program runs on a thread of its own; the
stream of rows keeps an exception (its products are NaN from then on, which ends the descent), and
the exception is raised here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax

from jaxdescent.data import RowStream
from jaxdescent.processes.signals import on_a_thread


def streams_in(structure: Any) -> tuple[RowStream, ...]:
    """The streams of rows in a tree's structure, each of them once."""
    return tuple(
        dict.fromkeys(each for each in static_parts(structure) if isinstance(each, RowStream))
    )


def static_parts(structure: Any) -> Iterator[Any]:
    """The objects that belong to a tree's structure, those of its subtrees included."""
    data = structure.node_data()
    if data is None:  # a leaf
        return
    for part in jax.tree.leaves(data[1]):
        if isinstance(part, jax.tree_util.PyTreeDef):
            yield from static_parts(part)
        else:
            yield part
    for child in structure.children():
        yield from static_parts(child)


def run_reading(streams: tuple[RowStream, ...], call: Callable[[], Any]) -> Any:
    """The result of ``call``, computed before it is returned.

    Raises:
      DataError: if rows could not be read; the error of the stream.
      KeyboardInterrupt: soon after Ctrl-C.
    """

    def give_up(error: BaseException) -> None:
        for stream in streams:
            stream.give_up(error)

    with contextlib.ExitStack() as watched:
        for stream in streams:
            watched.enter_context(stream.watched())
        return on_a_thread(lambda: jax.block_until_ready(call()), give_up=give_up)
