"""The result of a descent: the params, why it stopped, and what to do about it."""

from __future__ import annotations

import collections
import dataclasses
import enum
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxdescent import display


class Status(enum.IntEnum):
    """Why a descent stopped; ``Status(code).advice`` says what to do next.

    A compiled program returns the status as an int32 array, which prints as a number: one code for
    each member of a batch; zero marks a descent that is still running.

    >>> import jax.numpy as jnp
    >>> print(Status(jnp.int32(2)))
    MAX_ITERATIONS
    >>> Status.CONVERGED.advice
    'The tolerance is met: nothing to do; certify() says what kind of point it is.'
    """

    CONVERGED = 1
    MAX_ITERATIONS = 2
    STAGNATED = 3
    DIVERGED = 4
    NON_FINITE = 5
    STOPPED = 6
    INTERRUPTED = 7

    @property
    def advice(self) -> str:
        """One sentence: what happened, and what to do about it."""
        return self.advice_after(())

    def advice_after(self, ran: Sequence[str]) -> str:
        """The advice after methods of these names ran: no method that has been tried is advised.

        >>> Status.MAX_ITERATIONS.advice_after(["LBFGS()"]).split(", ")[-1]
        'else jd.DerivativeMethod() for few unknowns.'
        """
        exact = _untried(("DerivativeMethod()", "LSMR(jd.Sketch())"), ran)
        general = _untried(("LBFGS()", "DerivativeMethod() for few unknowns"), ran)
        rule = _untried(("Backtracking()",), ran)
        ways = [f"for a regression {exact}" * bool(exact), f"else {general}" * bool(general)]
        ways = ", ".join(filter(None, ways))
        return _ADVICE[self].format(
            fewer=f", or take a method that needs fewer: {ways}" * bool(ways),
            exact=f"; an ill-conditioned regression takes {exact}" * bool(exact),
            rate=f"lower the learning rate, or take {rule}; " * bool(rule),
        )

    def __repr__(self) -> str:
        return f"<Status.{self.name}: {self.advice}>"

    def __str__(self) -> str:
        return self.name


RUNNING = 0
"""The code of a descent that no stopping rule has ended yet."""


class Evidence(enum.IntEnum):
    """What ``Result.suboptimality`` is based on; ``Evidence(code).explanation`` says it in words.

    A compiled program returns it as an int32 array, one code for each member of a batch.

    >>> Evidence.BOUND.explanation
    'a bound that follows from the structure: the least curvature, or the least value'
    """

    NONE = 0
    EXACT = 1
    BOUND = 2
    FACTORISATION = 3
    RITZ_VALUES = 4
    NEWTON_DECREMENT = 5
    RATE = 6

    @property
    def explanation(self) -> str:
        """Where the number comes from, and whether it is a bound or an estimate."""
        return _EXPLANATIONS[self]

    def __repr__(self) -> str:
        return f"<Evidence.{self.name}: {self.explanation}>"

    def __str__(self) -> str:
        return self.name


_EXPLANATIONS = {
    Evidence.NONE: "nothing: what was seen allows no estimate",
    Evidence.EXACT: "exact up to rounding: the Hessian is diagonal and known",
    Evidence.BOUND: (
        "a bound that follows from the structure: the least curvature, or the least value"
    ),
    Evidence.FACTORISATION: "exact up to rounding: by the factorised Hessian",
    Evidence.RITZ_VALUES: "an estimate: by the smallest Ritz value",
    Evidence.NEWTON_DECREMENT: "an estimate: half the squared Newton decrement",
    Evidence.RATE: "an estimate: from the rate at which the value has been falling",
}

_ZERO_AT_START = (
    "The gradient was zero at the start and no step was taken: that is so at a saddle or a maximum "
    "too, and certify() says which it is."
)

OF_FUNCTIONS = Evidence.NONE, Evidence.NEWTON_DECREMENT, Evidence.RATE
"""What is known of functions that may have kinks."""

_AT_A_KINK = (
    "The gradient is not small, and turns within steps too short for this dtype: the value has a "
    "kink there, as |x| has at 0, or a valley that is too narrow. At a kink no gradient shows a "
    "minimum: accept the point, or smooth the value, such as |x| by sqrt(x**2 + c**2); in a valley "
    "a wider dtype of the params helps."
)

_ADVICE = {
    Status.CONVERGED: (
        "The tolerance is met: nothing to do; certify() says what kind of point it is."
    ),
    Status.MAX_ITERATIONS: (
        "The limit of iterations came first: raise max_iterations, loosen the tolerance{fewer}."
    ),
    Status.STAGNATED: (
        "Rounding hides any further progress in this dtype: accept the point if its suboptimality "
        "will do, store the params in a wider dtype, or round stochastically{exact}."
    ),
    Status.DIVERGED: (
        "The iterates grow without bound: {rate}if the objective is unbounded below, it has no "
        "minimum."
    ),
    Status.NON_FINITE: (
        "The objective or its gradient became NaN or infinite: look at the data and the start for "
        "NaN, logarithms and divisions first."
    ),
    Status.STOPPED: (
        "The predicate asked for the end: go on from these params with another, or none."
    ),
    Status.INTERRUPTED: (
        "A signal ended the run after the steps under way: call jd.run with the same checkpoint "
        "and resume=True to go on, or start from these params."
    ),
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EndedBy:
    """Which of the methods that make up a descent's method took the last step.

    Attributes:
      names: the names of all these methods, which are part of the program like their structure.
      code: the index of the last one, int32; None if there is only one.
    """

    names: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    code: Any = None


_UNKNOWN = EndedBy(("unknown",))


class History(NamedTuple):
    """The values at the last checks, oldest first; NaN if there were fewer checks than asked for.

    Attributes:
      value: the objective, (history,).
      gradient_norm: the norm of its gradient, (history,).
      suboptimality: the estimate of how far the value was above the minimum, (history,).
    """

    value: jax.Array
    gradient_norm: jax.Array
    suboptimality: jax.Array

    def __repr__(self) -> str:
        return f"History({display.guarded(lambda: _checks(self), '...')})"


# A named tuple, which JAX flattens and builds in a tenth of the time of a dataclass.
class Result(NamedTuple):
    """The outcome of :func:`jaxdescent.minimize`; under ``vmap`` every array gains a batch axis.

    Attributes:
      params: the params where the descent ended, with the structure, dtypes and shardings of the
        start.
      value: the objective at exactly these params.
      gradient_norm: the Euclidean norm of the gradient at exactly these params.
      suboptimality: how far ``value`` is above the minimum nearby, estimated or bounded; infinity
        if nothing is known.
      scale: the scale that the tolerance compared the gradient's norm with.
      iterations: how many steps were taken, int32.
      evaluations: how many gradients (or values alone) were computed, int32; those of an optax
        transformation's own line search are not counted.
      status: a :class:`Status` code, int32; ``print(Status(result.status))`` shows its name.
      evidence: an :class:`Evidence` code, int32, for what ``suboptimality`` is based on.
      state: the method's last state; ``()`` for a small regression that was solved at once.
      history: a :class:`History` of the last ``history`` checks; ``()`` if none was asked for.
      ended_by: an :class:`EndedBy`, which encodes the method that took the last step; ``method``
        has its name.
    """

    params: Any
    value: jax.Array
    gradient_norm: jax.Array
    suboptimality: jax.Array
    scale: jax.Array
    iterations: jax.Array
    evaluations: jax.Array
    status: jax.Array
    evidence: jax.Array
    state: Any
    history: Any
    ended_by: EndedBy = _UNKNOWN

    @property
    def converged(self) -> jax.Array:
        """Whether the status is ``CONVERGED``, as a bool array of the batch's shape."""
        return jnp.asarray(self.status) == Status.CONVERGED.value

    @property
    def method(self) -> Any:
        """The name of the method that took the last step.

        For a batch with a ``jd.Hedge`` it is a NumPy array of names, because members may differ.

        Raises:
          ValueError: for a ``jd.Hedge`` inside ``jit`` or ``vmap``, where it is not known yet.
        """
        names, code = self.ended_by.names, self.ended_by.code
        if code is None:
            return names[0]
        if isinstance(code, Tracer):
            raise ValueError(
                "Result.method was read inside jit, vmap or grad, where it is not known yet which "
                "method ends the descent: return the result, then read it outside; inside, "
                "Result.ended_by.code is its place in Result.ended_by.names."
            )
        named = np.asarray(names)[np.asarray(code)]
        return str(named) if named.ndim == 0 else named

    @property
    def message(self) -> str:
        """The status and its advice, and for a ``jd.Hedge`` the method that took the last step.

        For a batch it says how many members ended with each status.

        Raises:
          ValueError: inside ``jit`` or ``vmap``, where the status is not known yet.
        """
        if isinstance(self.status, Tracer):
            raise ValueError(
                "Result.message was read inside jit, vmap or grad, where the status is not known "
                "yet: return the result, then read its message outside."
            )
        codes = np.asarray(self.status)
        if codes.ndim == 0:
            by = f" (by {self.method})" if self.ended_by.code is not None else ""
            return f"{Status(int(codes)).name}{by}: {self._advice()}"
        counts = collections.Counter(int(code) for code in codes.ravel())
        return "\n".join(
            f"{count} of {codes.size} {Status(code).name}: {self._advice_for(code)}"
            for code, count in sorted(counts.items())
        )

    def _advice(self) -> str:
        """What to do after a single descent, in words."""
        status = Status(int(self.status))
        has_not_moved = status == Status.CONVERGED and int(self.iterations) == 0
        if has_not_moved and float(self.gradient_norm) == 0:
            return _ZERO_AT_START
        return self._advice_for(status)

    def _advice_for(self, code: int) -> str:
        """What to do after those of the descents that ended with this code."""
        if code == Status.STAGNATED and self._is_kinked()[np.asarray(self.status) == code].all():
            return _AT_A_KINK
        return _advice(code, self.ended_by.names)

    def _is_kinked(self) -> np.ndarray:
        """Whether each descent stagnated where the gradient is not small by what the value is, but
        where steps over which it is constant would change the value by no more than rounding.

        With g the gradient's norm and L the curvature that was seen, ``scale / |x|``, these are
        ``g |x| > |f| / 5`` and ``g^2 / (2 L) < 30 eps |f|``. In a smooth bowl both hold only if
        ``L |x|^2`` is 1e4 times the value.
        """
        members = np.shape(self.status)
        if not set(np.ravel(self.evidence).tolist()) <= {e.value for e in OF_FUNCTIONS}:
            return np.zeros(members, bool)
        leaves = jax.tree.leaves(self.params)
        arrays = [display.entries(leaf) for leaf in leaves]
        if sum(leaf.size for leaf in leaves) > MOST_RANKED or any(a is None for a in arrays):
            return np.zeros(members, bool)
        rows = [np.reshape(array, (*members, -1)).astype(np.float64) for array in arrays]
        x = np.sqrt(sum(np.square(row).sum(axis=-1) for row in rows))
        f, g, L = (np.asarray(n, np.float64) for n in (self.value, self.gradient_norm, self.scale))
        f, eps = np.abs(f), float(jnp.finfo(jnp.result_type(self.value)).eps)
        return np.asarray((g > 0.1 * L) | ((g * x > f / 5) & (g * g * x < 60 * L * eps * f)))

    def __repr__(self) -> str:
        return display.guarded(lambda: _report(self).as_text(), "Result")

    def _repr_html_(self) -> str:
        return display.guarded(lambda: _report(self).as_html(), "<p><b>Result</b></p>")


MOST_LINES = 12
"""The most lines of a printed result."""

WORST = 3
"""The number of members of a batch that are shown, the worst ones."""

MOST_RANKED = 1_000_000
"""The most members of a batch among which the worst are searched."""


def _report(result: Result) -> display.Report:
    codes = display.entries(result.status)
    if codes is not None and codes.ndim:
        title, remark, rows = _of_batch(result, codes)
    elif codes is not None:
        title = (
            f"Result: {_name(codes)} after {_counted(result.iterations, 'iteration')}, "
            f"{_counted(result.evaluations, 'evaluation')}"
        )
        remark, rows = display.guarded(result._advice, _advice(codes, ())), []
    else:
        title, remark, rows = f"Result: status {display.signature(result.status)}", "", []
        if isinstance(result.status, Tracer):
            remark = "Inside jit, vmap and grad there are no numbers yet: return it, then print it."
    size = 1 if codes is None else codes.size
    rows.append(("value", display.number(result.value, 6)))
    rows.append(("gradient norm", display.number(result.gradient_norm)))
    rows.append(("suboptimality", _suboptimality(result)))
    if size != 1:
        iterations, evaluations = map(display.number, (result.iterations, result.evaluations))
        rows.append(("iterations", f"{iterations}; evaluations {evaluations}"))
    if result.ended_by != _UNKNOWN:
        label = "method" if result.ended_by.code is None else "ended by"
        rows.append((label, display.guarded(lambda: _enders(result.ended_by), "...")))
    history = []
    if isinstance(result.history, History):
        history = [("history", display.guarded(lambda: _checks(result.history), "..."))]
    room = MOST_LINES - len([title, *filter(None, [remark]), *rows, *history])
    rows.extend(display.tree_rows("params", result.params, room, size))
    return display.Report(title, remark, rows + history)


def _of_batch(result: Result, codes: np.ndarray) -> tuple[str, str, display.Rows]:
    """The title with the statuses' counts, the advice for the most frequent failure, the worst."""
    counts = collections.Counter(codes.ravel().tolist())
    parts = [
        f"{'all' if count == codes.size else f'{count:,}'} {_name(code)}"
        for code, count in sorted(counts.items())
    ]
    title = f"Result of {codes.size:,} descents: {', '.join(parts) or 'none'}"
    worries = [code for code, _ in counts.most_common() if code != Status.CONVERGED]
    remark = display.guarded(
        lambda: result._advice_for(worries[0] if worries else Status.CONVERGED), ""
    )
    return title, remark, [("" if rank else "worst", text) for rank, text in _worst(result, codes)]


def _worst(result: Result, codes: np.ndarray) -> list[tuple[int, str]]:
    """Members that did not converge come first; then suboptimality and gradient norm count."""
    if not 0 < codes.size <= MOST_RANKED:
        return []
    columns = [
        display.entries(column)
        for column in (result.value, result.suboptimality, result.gradient_norm)
    ]
    value, suboptimality, norm = (
        np.full(codes.shape, np.nan)
        if column is None or column.shape != codes.shape
        else column.astype(np.float64)
        for column in columns
    )
    keys = [
        -np.where(np.isnan(norm), np.inf, norm).ravel(),
        -np.where(np.isnan(suboptimality), np.inf, suboptimality).ravel(),
        codes.ravel() == Status.CONVERGED,
    ]
    texts = []
    for place in np.lexsort(keys)[:WORST]:
        at = tuple(int(index) for index in np.unravel_index(place, codes.shape))
        text = f"{list(at)} {_name(codes[at])}: value {value[at]:.6g}, gradient norm {norm[at]:.3g}"
        if np.isfinite(suboptimality[at]):
            text += f", suboptimality {suboptimality[at]:.3g}"
        texts.append(text)
    return list(enumerate(texts))


def _suboptimality(result: Result) -> str:
    text = display.number(result.suboptimality)
    codes = display.entries(result.evidence)
    if codes is None or not codes.size:
        return text
    found = collections.Counter(codes.ravel().tolist()).most_common()
    if [code for code, _ in found] == [Evidence.NONE]:
        return f"unknown: {Evidence.NONE.explanation.removeprefix('nothing: ')}"
    known = [code for code, _ in found if code != Evidence.NONE and code in _EXPLANATIONS]
    return f"{text} ({Evidence(known[0]).explanation})" if known else text


def _enders(ended_by: EndedBy) -> str:
    """The method that took the last step, or how many members each method ended."""
    codes = display.entries(ended_by.code)
    if codes is None:
        return " or ".join(ended_by.names)
    if codes.ndim == 0:
        return ended_by.names[int(codes)]
    counts = collections.Counter(codes.ravel().tolist())
    return ", ".join(f"{ended_by.names[code]}: {count:,}" for code, count in sorted(counts.items()))


def _checks(history: History) -> str:
    """The first and the last recorded value of each column."""
    columns = [display.entries(column) for column in history]
    value = columns[0]
    if value is None or value.ndim != 1:
        return f"value {display.signature(history.value)}"
    is_made = ~np.all([np.isnan(column) for column in columns if column is not None], axis=0)
    count = int(is_made.sum())
    names = [name.replace("_", " ") for name in history._fields]
    texts = []
    for name, column in zip(names, columns, strict=True):
        if column is not None and np.any(np.isfinite(seen := column[is_made])):
            ends = seen[[0, -1][:count]].tolist()
            texts.append(f"{name} {' -> '.join(f'{end:.4g}' for end in ends)}")
    checks = f"last {count:,} checks" if count > 1 else "last check" if count else "no check"
    return ": ".join(filter(None, (checks, ", ".join(texts))))


def _counted(count: Any, name: str) -> str:
    text = display.number(count)
    return f"{text} {name if text == '1' else f'{name}s'}"


def _name(code: Any) -> str:
    status = _status(code)
    return status.name if status else f"status {int(code)}" if code else "RUNNING"


def _advice(code: Any, ran: Sequence[str]) -> str:
    status = _status(code)
    return status.advice_after(ran) if status else ""


def _untried(methods: Sequence[str], ran: Sequence[str]) -> str:
    """Those of the methods that are no part of the names of what ran."""
    names = [name.replace("jd.", "") for name in ran]
    parts = {method: method.replace("jd.", "").split("()")[0] for method in methods}
    left = [method for method in methods if not any(parts[method] in name for name in names)]
    return " or ".join(f"jd.{method}" for method in left)


def _status(code: Any) -> Status | None:
    return next((status for status in Status if status == int(code)), None)
