"""A fit by the sums of one pass: every penalty and every statistic follows from them."""

from __future__ import annotations

import functools

import numpy as np

from jaxdescent import processes
from jaxdescent.data import NormalSums
from jaxdescent.data.chunk import mirror
from jaxdescent.fit.encoding import Encoding
from jaxdescent.fit.first_pass import FirstPass
from jaxdescent.fit.fitted import Fitted, part_of
from jaxdescent.fit.job import Job
from jaxdescent.fit.methods import AUTO
from jaxdescent.fit.penalty_path import path_by_sums
from jaxdescent.fit.plans import FitPlan, products_side
from jaxdescent.fit.rows import TEST, TRAIN, Rows
from jaxdescent.fit.solution import Solution, solve


def fit_by_sums(job: Job, plan: FitPlan) -> Fitted:
    """Read everything once, and solve.

    Raises:
      DataError: for values that cannot be used, too few rows, or a constant target.
    """
    request, encoding, sums = job.request, job.encoding, ProductSums(job, plan.at_once)
    counts, data = sums.counts, sums.moments()
    counts.check_target(data.squares / data.weight_total, float(data.target_mean[0]))
    notes: list[str] = []
    l2, path = request.l2, None
    if l2 == AUTO:
        path = path_by_sums(
            data,
            counts.rows[TRAIN],
            standardize=request.standardize,
            held_out=functools.partial(sums.squared_error, TEST) if job.is_tested else None,
        )
        job.watch.searched(path.penalties, path.scores, path.best)
        l2 = float(path.penalties[path.best])
        notes.extend(path.notes)
    found = solve(data, float(l2), standardize=request.standardize)
    notes += _notes(found, encoding) + counts.notes
    if sums.fills is not None:
        encoding = encoding.filled(sums.fills + counts.shift)
    parts = [
        part_of(
            counts.rows[part],
            sums.squared_error(part, found.weights, found.intercept),
            float(total[-2, -2] - total[-2, -1] ** 2 / total[-1, -1]),
            float(total[-1, -1]),
        )
        for part, total in enumerate(sums.matrices)
    ]
    details = found.details | {
        "l2": float(l2),
        "l2_chosen_by": path.rule if path else None,
        "method": "sums of one pass, solved by their spectrum",
        "iterations": 1,
        "dropped_rows": counts.dropped,
        "unseen_values": counts.unseen,
    }
    return Fitted(encoding, found.weights, found.intercept, parts, details, notes, counts.read)


class ProductSums:
    """``sum_i s_i z_i z_i'`` in float64 for both parts, with z the features less a shift, which of
    the numbers are missing (under "mean"), the target less its shift, and a one.

    The terms stay small beside the spread, and subtracting the means afterwards cancels little. The
    products are NumPy's, on the host: JAX would need 64-bit mode for the whole process, and compile
    for each block's size.

    Attributes:
      matrices: the sums of the training rows, and of the held-out rows where there are some; means
        stand for missing numbers.
      counts: the counts of the rows.
      fills: (numbers,), these means less the shift; None where missing numbers have none.
    """

    def __init__(self, job: Job, at_once: int) -> None:
        self.encoding, side = job.encoding, products_side(job)
        self._marks_missing = job.request.missing == "mean"
        self.matrices = [np.zeros((side, side)) for _ in range(1 + job.is_tested)]
        self.counts = FirstPass(job, at_once, np.float64)
        for rows, numbers, _ in self.counts:
            self._add(rows, numbers)
            del rows, numbers
        for total in self.matrices:
            mirror(total)
        self.matrices = [processes.added(own) for own in self.matrices]
        self.fills: np.ndarray | None = None
        if self._marks_missing:
            size, numbers = self.encoding.size, len(self.encoding.numbers)
            total = self.matrices[TRAIN]
            weight = total[-1, -1] - total[size : size + numbers, -1]
            there = np.where(weight > 0, weight, 1)
            self.fills = np.where(weight > 0, total[:numbers, -1] / there, 0.0)
            self.matrices = [_filled(own, self.fills, size) for own in self.matrices]
        self.shift = np.zeros(self.encoding.size + 1)  # of the features and the target
        self.shift[[*range(len(self.encoding.numbers)), -1]] = [
            *self.counts.shift,
            self.counts.center,
        ]

    def moments(self) -> NormalSums:
        """The sums of the training rows about their means."""
        return NormalSums.about_means(self.matrices[TRAIN], self.shift, self.encoding.size)

    def squared_error(self, part: int, weights: np.ndarray, b: float) -> float:
        """``sum_i s_i (w.x_i + b - y_i)^2`` from the sums alone."""
        constant = b + weights @ self.shift[:-1] - self.shift[-1]
        residual = np.concatenate([weights, [-1.0, constant]])
        return max(float(residual @ (self.matrices[part] @ residual)), 0.0)

    def _add(self, rows: Rows, numbers: np.ndarray) -> None:
        """Add a block's rows, and refuse values whose squares overflow."""
        chunk = self.encoding.chunk(rows.encoded, numbers, rows.block)
        with np.errstate(over="ignore"):
            columns = [rows.target - self.counts.center]
        if self._marks_missing:
            missing = (number.missing for number in rows.encoded.numbers)
            marks = [np.zeros(chunk.rows) if mark is None else mark for mark in missing]
            columns = [*marks, *columns]
        targets = np.column_stack(columns)
        for part, total in enumerate(self.matrices):
            own = np.flatnonzero(rows.is_test == part)
            is_all = own.size == chunk.rows
            weight = rows.weight if rows.weight is None or is_all else rows.weight[own]
            if is_all:
                chunk.add_products(weight, targets, None, total)
            elif own.size:
                chunk.take(own).add_products(weight, targets[own], None, total)
            if not np.isfinite(total.diagonal()).all():
                rows.refuse_not_finite(self.encoding.numbers)


def _filled(total: np.ndarray, fills: np.ndarray, size: int) -> np.ndarray:
    """A matrix of sums where missing values are replaced by means, exactly as if they had been
    known before the pass: ``z_j + fill_j * missing_j`` is linear in what was added up.
    """
    numbers = len(fills)
    marks = slice(size, size + numbers)
    total = total.copy()
    total[:numbers] += fills[:, None] * total[marks]
    total[:, :numbers] += total[:, marks] * fills[None, :]
    kept = np.r_[0:size, size + numbers : len(total)]
    return total[np.ix_(kept, kept)]


def _notes(found: Solution, encoding: Encoding) -> list[str]:
    notes: list[str] = []
    constant = np.flatnonzero(found.constant)
    if constant.size:
        names = [encoding.feature_name(int(j)) for j in constant[:5]]
        more = f" and {constant.size - 5:,} more" if constant.size > 5 else ""
        verb = "does" if constant.size == 1 else "do"
        notes.append(
            f"{', '.join(names)}{more} {verb} not vary beyond rounding: the weight is zero."
        )
    varying = found.weights.size - constant.size
    rank = found.details["rank"]
    if rank is not None and rank < varying:
        if found.is_certain:
            notes.append(
                f"The features are linearly dependent: rank {rank:,} of {varying:,}. The "
                "weights are those of least norm per column's length; predictions do not depend "
                "on the choice."
            )
        else:
            notes.append(
                f"Some features are so nearly dependent that float64 cannot tell them apart: rank "
                f"{rank:,} of {varying:,}. What only their small differences explain is left "
                "out: take differences as features, leave some out, or say --l2."
            )
    return notes
