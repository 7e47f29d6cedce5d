"""The entry point ``jd.run``: a long descent, driven from the host in chunks of steps."""

from __future__ import annotations

import contextlib
import pathlib
import time
from collections.abc import Sequence
from typing import Any, Never

import jax

from jaxdescent import processes
from jaxdescent.calls.problem import Problem
from jaxdescent.cost import default_plan
from jaxdescent.cost.structure import ProblemKind
from jaxdescent.descent.fused_steps import FUSED_STEPS, fuses
from jaxdescent.descent.state import Loop
from jaxdescent.display import structure_name
from jaxdescent.inputs import tracing
from jaxdescent.inputs.numbers import check_count, check_number
from jaxdescent.minimize import Setup, set_up
from jaxdescent.numerics import precision
from jaxdescent.objectives import as_objective
from jaxdescent.processes.signals import Interruption
from jaxdescent.result import Result
from jaxdescent.runs.chunks import Chunks
from jaxdescent.runs.driver import Driver, Pace, refuse_nan, timed
from jaxdescent.runs.hooks import Checkpoint, Hook
from jaxdescent.runs.hooks.protocol import Facts, Summary
from jaxdescent.tolerance import Tolerance

Params = Any


def run(
    objective: Any = None,
    start: Params = None,
    method: Any = None,
    *,
    args: tuple[Any, ...] = (),
    max_iterations: int = 1000,
    tolerance: float | Tolerance | None = None,
    chunk: int | None = None,
    hooks: Sequence[Hook] = (),
    checkpoint: str | pathlib.Path | Checkpoint | None = None,
    resume: bool = False,
    check_every: int | None = None,
    donate: bool = False,
    history: int = 0,
    rounding: precision.Rounding | None = None,
    patience: float = 60.0,
    **unknown: Never,
) -> Result:
    """Minimise like :func:`jaxdescent.minimize`, for hours: watched, saved, and interruptible.

    The steps are those of ``minimize``, in the same loop; the result is the same whatever the
    chunks are. The host drives them: it tells the device to go on, and while that works it reads
    the last chunk's numbers and passes them to the hooks.

    SIGINT (Ctrl-C) or SIGTERM ends the run after the chunk under way with everything so far, the
    checkpoint included: the status is INTERRUPTED. A second one stops at once.

    Args:
      objective: what is minimised, as for ``minimize``.
      start: the params to start from, as ``params`` of ``minimize``.
      method: as for ``minimize``.
      args: extra arguments of the objective.
      max_iterations: the most steps, those before a resumption included.
      tolerance: when to stop, as for ``minimize``.
      chunk: the steps in a chunk. None stands for as many as take about half a second, measured on
        the way. A chunk ends at a check: if there are several steps between two, it is a multiple
        of ``check_every``.
      hooks: what happens between chunks: ``jd.hooks.Progress()``, ``History(path)``,
        ``StopWhen(function)``, ``Profile(folder)``, or a :class:`jaxdescent.hooks.Hook` of your
        own.
      checkpoint: a folder for checkpoints, or ``jd.hooks.Checkpoint(folder, ...)``.
      resume: whether to go on from the newest checkpoint in that folder; where it has none the run
        begins at ``start``. Without it a folder that has checkpoints is refused.
      check_every: the steps between checks, as for ``minimize``.
      donate: whether to reuse the memory of ``start``, which the caller must not use again.
      history: how many of the last checked values to keep.
      rounding: how each pass rounds 16-bit params.
      patience: the seconds that a process of several waits for another one between chunks, and in
        a chunk beyond ten times the longest so far, before it ends with an error.
      **unknown: none, as for ``minimize``.

    Returns:
      The :class:`jaxdescent.Result`, as of ``minimize``; its iterations and evaluations include
      those before a resumption.

    Raises:
      TypeError, ValueError, ProblemTooLarge: as ``minimize``; also inside ``jit``, ``vmap`` or
        ``grad``; if the start, or data that make the value NaN there, hold NaN; if the checkpoint
        is of another problem, with what differs; if another run writes to its folder.
      OtherProcessFailed: if another process of the run fails, was called with something else, or
        hangs for longer than ``patience``.
      KeyboardInterrupt: at the second signal.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> result = jd.run(lambda x: jnp.sum(jnp.cosh(x)), jnp.array([2.0, -1.0]), chunk=4)
    >>> result.message.split(":")[0]
    'CONVERGED'
    """
    if unknown:
        from jaxdescent.inputs import keywords

        keywords.refuse(run, unknown)
    if not tracing.is_top_level():
        raise TypeError(
            "run drives a descent from the host and cannot be traced: inside jit, vmap or grad "
            "call minimize."
        )
    began = time.perf_counter()
    if isinstance(max_iterations, jax.Array):
        max_iterations = int(max_iterations)
    if chunk is not None:
        check_count("chunk", chunk)
    check_number("patience", patience, "positive", lambda seconds: seconds > 0)
    every_hook, saved = _checked_hooks(hooks, checkpoint, resume)
    setup = set_up(
        as_objective(objective, args),
        start,
        method,
        max_iterations=max_iterations,
        tolerance=tolerance,
        check_every=check_every,
        donate=donate,
        history=history,
        rounding=rounding,
        is_top_level=True,
        call="run",
    )
    refuse_nan("start", setup.inputs[0])
    chunks = Chunks(setup, donate=donate)
    summary = Summary()
    with contextlib.ExitStack() as stack:
        # An error in one process, of a hook or a full disk, ends the run of all.
        kept = {"checkpoint": saved is not None, "resume": resume}
        stack.enter_context(processes.among("steps of run", setup.inputs, alike=kept))
        for hook in every_hook:
            stack.callback(hook.close)
        loop = _first_loop(chunks, setup, saved, resume=resume, donate=donate, summary=summary)
        facts = _facts(setup, max_iterations, int(loop.iteration))
        del setup, start
        with timed(summary, "seconds_compiling"):
            # By a chunk without steps, which reuses the loop's memory.
            loop, _ = jax.block_until_ready(chunks.advance(loop, 0, is_last=False))
        interruption = stack.enter_context(Interruption())
        driver = Driver(chunks, every_hook, facts, summary, began, patience)
        for hook in every_hook:
            hook.begin(facts)
        save = saved and saved.save_last
        with processes.patience(patience):
            loop, status = driver.drive(loop, Pace(chunk, chunks.check_every), interruption, save)
        result = jax.block_until_ready(chunks.end(loop, status))
        summary.seconds = time.perf_counter() - began
        for hook in every_hook:
            hook.end(result, summary)
    return result


def _checked_hooks(
    hooks: Any, checkpoint: Any, resume: bool
) -> tuple[tuple[Hook, ...], Checkpoint | None]:
    """All hooks, and the one for checkpoints if there is one."""
    if isinstance(hooks, Hook) or not isinstance(hooks, list | tuple):
        raise TypeError(f"hooks must be a list of hooks, got {hooks!r}: write hooks=[...].")
    for hook in hooks:
        if not isinstance(hook, Hook):
            is_class = isinstance(hook, type)
            raise TypeError(
                "hooks must be instances of jd.hooks.Hook, such as jd.hooks.Progress(), got "
                f"{hook!r}.{' Call it first, for example jd.hooks.Progress().' * is_class}"
            )
    if isinstance(checkpoint, str | pathlib.Path):
        checkpoint = Checkpoint(checkpoint)
    if not isinstance(checkpoint, Checkpoint | None):
        raise TypeError(
            f"checkpoint must be a folder or jd.hooks.Checkpoint(folder), got {checkpoint!r}."
        )
    hooks = tuple(hooks) if checkpoint is None else (*hooks, checkpoint)
    found = [hook for hook in hooks if isinstance(hook, Checkpoint)]
    if len(found) > 1:
        raise ValueError(f"a run has one Checkpoint, got {len(found)}: leave all but one out.")
    if resume and not found:
        raise ValueError("resume=True needs the folder of the checkpoints: pass checkpoint=folder.")
    return hooks, found[0] if found else None


def _first_loop(
    chunks: Chunks,
    setup: Setup,
    saved: Checkpoint | None,
    *,
    resume: bool,
    donate: bool,
    summary: Summary,
) -> Loop:
    """The loop at the start, or that of a checkpoint."""
    params = setup.inputs[0]
    if saved is not None:
        with timed(summary, "seconds_restoring"):
            like = chunks.like(params)
            found = saved.open(setup, chunks.jaxpr(like), resume=resume)
            if found and donate:
                for leaf in jax.tree.leaves(params):
                    leaf.delete()  # the restored loop may need the memory
            if found:
                return saved.restore(found, like)
    with timed(summary, "seconds_compiling"):
        return chunks.begin(params)


def _facts(setup: Setup, max_iterations: int, iteration: int) -> Facts:
    params, problem, _ = setup.inputs
    leaves = jax.tree.leaves(params)
    return Facts(
        objective=structure_name(problem.objective),
        method=structure_name(problem.method),
        unknowns=sum(leaf.size for leaf in leaves),
        params_bytes=sum(leaf.nbytes for leaf in leaves),
        max_iterations=max_iterations,
        iteration=iteration,
        bytes_per_iteration=bytes_per_iteration(problem, params, setup.flags["check_every"]),
        is_first_process=jax.process_index() == 0,
    )


def bytes_per_iteration(problem: Problem, params: Any, check_every: int) -> float | None:
    """The bytes that an iteration reads and writes on all devices; None if it is not known.

    Fused steps read and write the params once in each pass. Otherwise it is the mean over the
    iterations that the plan expects of the same method, if that is a candidate; what a function
    reads is not known.
    """
    if fuses(problem.objective, problem.method) and check_every > 1:
        held = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
        return 2.0 * held / min(FUSED_STEPS, check_every)
    plan = default_plan(problem.objective, params)
    if plan.structure.kind in (ProblemKind.FUNCTION, ProblemKind.RESIDUALS):
        return None
    name = structure_name(problem.method)
    for candidate in plan.candidates:
        if structure_name(candidate.method) == name:
            moved = candidate.bytes_moved / candidate.iterations
            return moved * plan.structure.devices or None
    return None
