"""How a result prints: why the descent stopped, what to do first, a batch by its worst members."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxdescent.display.numbers import entries, guarded, number, signature
from jaxdescent.display.report import Report, Rows, tree_rows
from jaxdescent.status import RUNNING, Evidence, Status

Result = Any
"""A :class:`jaxdescent.Result`, which is made above this package and prints by it."""

_ZERO_AT_START = (
    "The gradient was zero at the start and no step was taken: that is so at a saddle or a maximum "
    "too, and certify() says which it is."
)

OF_FUNCTIONS = Evidence.NONE, Evidence.NEWTON_DECREMENT, Evidence.RATE
"""The kinds of evidence for functions that may have kinks."""

_AT_A_KINK = (
    "The gradient is not small, and turns within steps too short for this dtype: the value has a "
    "kink there, as |x| has at 0, or a valley that is too narrow. At a kink no gradient shows a "
    "minimum: accept the point, or smooth the value, such as |x| by sqrt(x**2 + c**2); in a valley "
    "a wider dtype of the params helps."
)

_OR_A_KINK = (
    " A value that is not smooth may have a kink there, as |x| has at 0: then smooth it, such as "
    "|x| by sqrt(x**2 + c**2)."
)

MOST_LINES = 12
"""The most lines of a printed result."""

WORST = 3
"""The number of members of a batch that are shown, the worst ones."""

MOST_RANKED = 1_000_000
"""The most members of a batch among which the worst are searched."""


def message(result: Result) -> str:
    """The status and its advice, or for a batch how many members ended with each status."""
    codes = np.asarray(result.status)
    if codes.ndim == 0:
        by = f" (by {result.method})" if result.ended_by.code is not None else ""
        return f"{Status(int(codes)).name}{by}: {advice(result)}"
    counts = collections.Counter(int(code) for code in codes.ravel())
    return "\n".join(
        f"{count} of {codes.size} {Status(code).name}: {_advice_for(result, code)}"
        for code, count in sorted(counts.items())
    )


def advice(result: Result) -> str:
    """What to do after a single descent, in words."""
    status = Status(int(result.status))
    has_not_moved = status == Status.CONVERGED and int(result.iterations) == 0
    if has_not_moved and float(result.gradient_norm) == 0:
        return _ZERO_AT_START
    return _advice_for(result, status)


def _advice_for(result: Result, code: int) -> str:
    """The advice for descents that ended with this code."""
    usual = _advice(code, result.ended_by.names)
    if code != Status.STAGNATED:
        return usual
    of_code = np.asarray(result.status) == code
    if _is_kinked(result)[of_code].all():
        return _AT_A_KINK
    is_unknown = (np.asarray(result.evidence)[of_code] == Evidence.NONE).all()
    return usual + _OR_A_KINK * bool(is_unknown)


def _is_kinked(result: Result) -> np.ndarray:
    """Whether each descent stagnated at a point where the gradient is not small compared with the
    value, although steps so short that the gradient stays constant change the value by no more than
    rounding.

    With g the gradient's norm and L the curvature that was seen, ``scale / |x|``, these are
    ``g |x| > |f| / 5`` and ``g^2 / (2 L) < 30 eps |f|``. In a smooth bowl both hold only if
    ``L |x|^2`` is 1e4 times the value.
    """
    members = np.shape(result.status)
    if not set(np.ravel(result.evidence).tolist()) <= {e.value for e in OF_FUNCTIONS}:
        return np.zeros(members, bool)
    leaves = jax.tree.leaves(result.params)
    arrays = [entries(leaf) for leaf in leaves]
    if sum(leaf.size for leaf in leaves) > MOST_RANKED or any(a is None for a in arrays):
        return np.zeros(members, bool)
    rows = [np.reshape(array, (*members, -1)).astype(np.float64) for array in arrays]
    x = np.sqrt(sum(np.square(row).sum(axis=-1) for row in rows))
    f, g, L = (
        np.asarray(n, np.float64) for n in (result.value, result.gradient_norm, result.scale)
    )
    f, eps = np.abs(f), float(jnp.finfo(jnp.result_type(result.value)).eps)
    return np.asarray((g > 0.1 * L) | ((g * x > f / 5) & (g * g * x < 60 * L * eps * f)))


def report(result: Result) -> Report:
    """The report that is printed of a result."""
    codes = entries(result.status)
    if codes is not None and codes.ndim:
        title, remark, rows = _of_batch(result, codes)
    elif codes is not None:
        title = (
            f"Result: {_name(codes)} after {_counted(result.iterations, 'iteration')}, "
            f"{_counted(result.evaluations, 'evaluation')}"
        )
        remark, rows = guarded(lambda: advice(result), _advice(codes, ())), []
    else:
        title, remark, rows = f"Result: status {signature(result.status)}", "", []
        if isinstance(result.status, Tracer):
            remark = "Inside jit, vmap and grad there are no numbers yet: return it, then print it."
    size = 1 if codes is None else codes.size
    rows.append(("value", number(result.value, 6)))
    rows.append(("gradient norm", number(result.gradient_norm)))
    rows.append(("suboptimality", _suboptimality(result)))
    if size != 1:
        iterations, evaluations = map(number, (result.iterations, result.evaluations))
        rows.append(("iterations", f"{iterations}; evaluations {evaluations}"))
    if result.ended_by.is_known:
        label = "method" if result.ended_by.code is None else "ended by"
        rows.append((label, guarded(lambda: _enders(result.ended_by), "...")))
    history = []
    if result.history:
        history = [("history", guarded(lambda: checks(result.history), "..."))]
    room = MOST_LINES - len([title, *filter(None, [remark]), *rows, *history])
    rows.extend(tree_rows("params", result.params, room, size))
    return Report(title, remark, rows + history)


def _of_batch(result: Result, codes: np.ndarray) -> tuple[str, str, Rows]:
    """The title with the statuses' counts, the advice for the most frequent failure, the worst."""
    counts = collections.Counter(codes.ravel().tolist())
    parts = [
        f"{'all' if count == codes.size else f'{count:,}'} {_name(code)}"
        for code, count in sorted(counts.items())
    ]
    title = f"Result of {codes.size:,} descents: {', '.join(parts) or 'none'}"
    worries = [code for code, _ in counts.most_common() if code != Status.CONVERGED]
    remark = guarded(lambda: _advice_for(result, worries[0] if worries else Status.CONVERGED), "")
    return title, remark, _worst(result, codes)


def _worst(result: Result, codes: np.ndarray) -> Rows:
    """Members that did not converge come first; then suboptimality and gradient norm count."""
    if not 0 < codes.size <= MOST_RANKED:
        return []
    columns = [
        entries(column) for column in (result.value, result.suboptimality, result.gradient_norm)
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
    rows = []
    for place in np.lexsort(keys)[:WORST]:
        at = tuple(int(index) for index in np.unravel_index(place, codes.shape))
        text = f"{list(at)} {_name(codes[at])}: value {value[at]:.6g}, gradient norm {norm[at]:.3g}"
        if np.isfinite(suboptimality[at]):
            text += f", suboptimality {suboptimality[at]:.3g}"
        rows.append(("" if rows else "worst", text))
    return rows


def _suboptimality(result: Result) -> str:
    text = number(result.suboptimality)
    codes = entries(result.evidence)
    if codes is None or not codes.size:
        return text
    found = collections.Counter(codes.ravel().tolist()).most_common()
    if [code for code, _ in found] == [Evidence.NONE]:
        return f"unknown: {Evidence.NONE.explanation.removeprefix('nothing: ')}"
    known = [code for code, _ in found if code != Evidence.NONE and code in list(Evidence)]
    return f"{text} ({Evidence(known[0]).explanation})" if known else text


def _enders(ended_by: Any) -> str:
    """The method that took the last step, or how many members each method ended."""
    codes = entries(ended_by.code)
    if codes is None:
        return " or ".join(ended_by.names)
    if codes.ndim == 0:
        return ended_by.names[int(codes)]
    counts = collections.Counter(codes.ravel().tolist())
    return ", ".join(f"{ended_by.names[code]}: {count:,}" for code, count in sorted(counts.items()))


def checks(history: Any) -> str:
    """The first and the last recorded value of each column."""
    columns = [entries(column) for column in history]
    value = columns[0]
    if value is None or value.ndim != 1:
        return f"value {signature(history.value)}"
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
    text = number(count)
    return f"{text} {name if text == '1' else f'{name}s'}"


def _name(code: Any) -> str:
    if code == RUNNING:
        return "RUNNING"
    return guarded(lambda: Status(int(code)).name, f"status {code}")


def _advice(code: Any, ran: Sequence[str]) -> str:
    return guarded(lambda: Status(int(code)).advice_after(ran), "")
