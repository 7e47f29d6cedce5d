"""Compiled programs, kept in a bounded cache. All of the package's jit calls for descents are here.

A program is compiled for a structure: functions, classes and flags. Arrays and hyper-parameters
are its inputs. JAX's own cache would keep every function ever passed alive. On a CPU a call of a
program of a thousand operations or more (``cost_analysis()["flops"]``) takes 20 to 50 us more,
because it is handed to another thread; plain descent on a few unknowns has fewer.

A program that reads rows while it runs has a thread of its own: Python handles Ctrl-C in the main
thread alone, and not while this thread waits for XLA. XLA turns an exception of a callback into a
text; the stream of rows keeps it (its products are NaN from then on, which ends the descent).
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxdescent import processes
from jaxdescent.designs.row_reader import RowReader
from jaxdescent.inputs.functions import is_fleeting
from jaxdescent.inputs.numpy_constants import kept_apart
from jaxdescent.kernels.platform import Known, compiled_for, known_of
from jaxdescent.processes.signals import on_a_thread

PROGRAMS = 128
"""The number of compiled programs that are kept; the least recently used one is dropped."""

HOST = "host"
"""The value of ``known`` for a function that the host computes: nothing is compiled."""

CALLS = 8
"""The number of recent calls that a program keeps for :mod:`jaxdescent.calls.repeated`."""


def compiled(
    function: Callable[..., Any],
    inputs: Any,
    *,
    donate: tuple[int, ...] = (),
    known: Known | None = None,
    **flags: Any,
) -> Program:
    """``function`` with its static ``flags`` set, compiled for inputs of this structure.

    The program is kept, unless the inputs hold a callable that may compute something else later.
    ``known`` says where inputs lie that are no arrays: shapes, or what is traced for derivatives.
    """
    structure = jax.tree.structure(tuple(inputs))
    known = known or known_of(inputs)
    if known is not None and streams_in(structure):
        known = known._replace(is_small=False)
    key = function, structure, donate, tuple(flags.items()), known
    return _compiled.__wrapped__(*key) if is_fleeting(inputs) else _compiled(*key)


def on_host(function: Callable[..., Any], inputs: Any, **flags: Any) -> Program:
    """``function`` with its ``flags``, computed by the host without compiling; it is kept among the
    programs, so that repeated calls find it.
    """
    return _compiled(function, jax.tree.structure(tuple(inputs)), (), tuple(flags.items()), HOST)


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A jitted function of leaves, called with the trees that have these leaves."""

    of_leaves: Any
    key: tuple[Any, ...]
    streams: tuple[RowReader, ...] = ()  # the rows that it reads while it runs
    calls: collections.deque[Any] = dataclasses.field(
        default_factory=lambda: collections.deque(maxlen=CALLS)
    )
    next: dict[Any, Program] = dataclasses.field(default_factory=dict)

    def following(self, function: Callable[..., Any], inputs: Any, **flags: Any) -> Program:
        """The program of ``function`` for inputs that this program's results are part of; see
        :func:`compiled`.

        It is found by the inputs' structure alone, because the devices of its arrays follow from
        this program, as do the other facts about them.
        """
        key = function, jax.tree.structure(inputs)
        program = self.next.get(key)
        if program is None:
            known, own = known_of(inputs), self.key[-1]
            if known is not None and isinstance(own, Known):
                known = known._replace(is_far=own.is_far)
            program = self.next[key] = compiled(function, inputs, known=known, **flags)
        return program

    def __call__(self, *inputs: Any) -> Any:
        """Run the program; it is compiled first if the leaves' shapes are new."""
        leaves = jax.tree.leaves(inputs)
        if any(isinstance(leaf, Tracer) for leaf in leaves):
            # The rules of derivatives are traced in this call, after the function itself.
            with compiled_for(self.key[-1]):
                return self.of_leaves(*leaves)
        if self.streams:
            # If processes read shares of one design, a failure in one process is raised in all.
            with processes.among("a program that reads rows", leaves):
                arrays = [jnp.asarray(leaf) for leaf in leaves]
                lowered = self.of_leaves.lower(*arrays)
                # Compiled where the end of another process is heard of meanwhile.
                return run_reading(self.streams, lambda: lowered.compile()(*arrays))
        return self.of_leaves(*leaves)

    def prepared(self, *inputs: Any) -> Callable[[], Any]:
        """A function that runs the program on these inputs, compiled now.

        It can be called in another thread, where JAX may have other settings.
        """
        leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(inputs)]
        return functools.partial(self.of_leaves.lower(*leaves).compile(), *leaves)

    @property
    def is_new(self) -> bool:
        """Whether the program has not been compiled for any shapes."""
        return not self.of_leaves._cache_size()

    def lower(self, *inputs: Any) -> Any:
        """The lowered program, as ``jax.jit(...).lower`` returns it, to inspect without a run."""
        return self.of_leaves.lower(*jax.tree.leaves(inputs))


def kept(key: tuple[Any, ...]) -> Program:
    """The program with this key, found without its inputs."""
    return _compiled(*key)


@functools.lru_cache(maxsize=PROGRAMS)
def _compiled(
    function: Callable[..., Any],
    structure: Any,
    donate: tuple[int, ...],
    flags: tuple[Any, ...],
    known: Known | str | None,
) -> Program:
    # Only leaves are passed to jit: JAX's own caches would keep the structure of the arguments, and
    # with it every function ever minimised. So dropping an entry frees its compiled program.
    counts = [child.num_leaves for child in structure.children()]
    first = [sum(counts[:index]) for index in range(len(counts))]
    donated = [first[index] + leaf for index in donate for leaf in range(counts[index])]

    key = function, structure, donate, flags, known
    if known == HOST:
        of = functools.partial(function, **dict(flags))
        return Program(lambda *leaves: of(*jax.tree.unflatten(structure, leaves)), key)

    def program(*leaves: Any) -> Any:
        with compiled_for(known), kept_apart():
            return function(*jax.tree.unflatten(structure, leaves), **dict(flags))

    # A donated array is kept even if its numbers are unused, because its memory is reused.
    options = known.compiler_options if isinstance(known, Known) else None
    jitted = jax.jit(
        program, donate_argnums=donated, keep_unused=bool(donated), compiler_options=options
    )
    return Program(jitted, key, streams_in(structure))


def streams_in(structure: Any) -> tuple[RowReader, ...]:
    """The streams of rows in a tree's structure, each of them once."""
    return tuple(
        dict.fromkeys(each for each in static_parts(structure) if isinstance(each, RowReader))
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


def run_reading(streams: tuple[RowReader, ...], call: Callable[[], Any]) -> Any:
    """The result of ``call``, computed before it is returned.

    Raises:
      DataError: if rows could not be read; the error of the stream.
      KeyboardInterrupt: soon after Ctrl-C.
      OtherProcessFailed: soon after the early end of another process that runs this program.
    """

    def give_up(error: BaseException) -> None:
        for stream in streams:
            stream.give_up(error)

    with contextlib.ExitStack() as watched:
        for stream in streams:
            watched.enter_context(stream.watched())
        look: dict[str, Any] = {}
        if not processes.is_alone():
            look = {"look": processes.follow_early_end}
        return on_a_thread(lambda: jax.block_until_ready(call()), give_up=give_up, **look)
