"""A fit by the sums of one pass: every penalty and every statistic follows from them.

A squared error that follows from sums is a difference of terms that may be far larger: of a target
that is explained to eight digits nothing is left in float64. Where rounding may hide a part of it,
the rows are read again, for their own residuals, which refine the weights as well.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxdescent import processes
from jaxdescent.data import NormalSums
from jaxdescent.data.chunk import mirror
from jaxdescent.data.errors import listed
from jaxdescent.fit.budget import ReadingPlan
from jaxdescent.fit.job import Fitted, Job, part_of
from jaxdescent.fit.penalty_path import HELD_OUT, Path, generalised, penalties_from
from jaxdescent.fit.plans import products_side
from jaxdescent.fit.request import AUTO
from jaxdescent.fit.rows import TEST, TRAIN, FirstPass, Rows, read_rows, shifted_numbers
from jaxdescent.status import Evidence, Status

RANK = 1e-13
"""An eigenvalue of the matrix of correlations below this part of the largest one is rounding, or
cannot be told from it: the sums are in float64, and hold the rounding errors of many rows."""

CONVERGED = 1e-10
"""A solve converged where the gradient's norm is at most this part of its norm at zero weights."""

DEPENDENT = 1e-13
"""A gradient along linearly dependent columns whose norm is below this part of its norm at zero
weights is the rounding error of an exact dependence."""

ULPS = 4
"""The rounding of a sum of products, as a part of the product of the columns' lengths, in eps."""

HIDDEN = 1e-8
"""The most of a squared error that rounding of the sums may hide, and of the value that a solve
leaves above the minimum where the rows tell; with less the rows are read again."""

MOST_READINGS = 4
"""The most times that the rows are read again."""


def fit_by_sums(job: Job, plan: ReadingPlan) -> Fitted:
    """Read everything once, and solve."""
    request, encoding, sums = job.request, job.encoding, ProductSums(job, plan.at_once)
    counts, data = sums.counts, sums.moments()
    counts.check_target(data.squares / data.weight_total, float(data.target_mean[0]))
    notes: list[str] = []
    l2, path = request.l2, None
    if l2 == AUTO:
        path = path_by_sums(job, sums, data)
        job.watch.searched(path.penalties, path.scores, path.best)
        l2 = float(path.penalties[path.best])
        notes.extend(path.notes)
    weights, intercept, errors, details, more = solve(job, sums, data, float(l2))
    notes += more + counts.notes
    if sums.fills is not None:
        encoding = encoding.filled(sums.fills + counts.shift)
    parts = [
        part_of(
            counts.rows[part],
            errors[part],
            float(total[-2, -2] - total[-2, -1] ** 2 / total[-1, -1]),
            float(total[-1, -1]),
        )
        for part, total in enumerate(sums.matrices)
    ]
    details |= {
        "l2": float(l2),
        "l2_chosen_by": path.rule if path else None,
        "method": "sums of one pass, solved by their spectrum",
        "iterations": 1 + sums.readings,
        "dropped_rows": counts.dropped,
        "unseen_values": counts.unseen,
    }
    passes = 1 + sums.readings
    read = passes * counts.read
    return Fitted(encoding, weights, intercept, parts, details, notes, read, passes, passes)


class ProductSums:
    """``sum_i s_i z_i z_i'`` in float64 for both parts, with z the features less a shift, which of
    the numbers are missing (under "mean"), the target less its shift, and a one.

    The terms stay small beside the spread, and subtracting the means afterwards cancels little. The
    products are NumPy's, on the host: JAX would need 64-bit mode for the whole process, and compile
    for each block's size.
    """

    def __init__(self, job: Job, at_once: int) -> None:
        self.encoding, side = job.encoding, products_side(job)
        self._job, self._at_once = job, at_once
        self.readings = 0  # how many times the rows have been read again
        self._marks_missing = job.request.missing == "mean"
        # The sums of the training rows, and of the held-out rows where there are some; at the end
        # means stand for missing numbers.
        self.matrices = [np.zeros((side, side)) for _ in range(1 + job.is_tested)]
        self.counts = FirstPass(job, at_once, np.float64)
        for rows, numbers in self.counts:
            self._add(rows, numbers)
            del rows, numbers
        for total in self.matrices:
            mirror(total)
        self.matrices = [processes.added(own) for own in self.matrices]
        # (numbers,), these means less the shift; None where missing numbers have none.
        self.fills: np.ndarray | None = None
        if self._marks_missing:
            size, numbers = self.encoding.size, len(self.encoding.numbers)
            total = self.matrices[TRAIN]
            weight = total[-1, -1] - total[size : size + numbers, -1]
            there = np.where(weight > 0, weight, 1)
            self.fills = np.where(weight > 0, total[:numbers, -1] / there, 0.0)
            self.matrices = [_filled(own, self.fills, size) for own in self.matrices]
        unshifted = np.zeros(self.encoding.size - len(self.encoding.numbers))
        # Of the features and the target.
        self.shift = np.concatenate([self.counts.shift, unshifted, [self.counts.center]])

    def moments(self) -> NormalSums:
        """The sums of the training rows about their means."""
        total = self.matrices[TRAIN]
        return NormalSums.of(total, self.shift, self.encoding.size, intercept=True)

    def squared_error(self, part: int, weights: np.ndarray, b: float) -> tuple[float, float]:
        """``sum_i s_i (w.x_i + b - y_i)^2`` from the sums alone, and a bound on its rounding,
        ``ULPS eps (sum_j |r_j| |z_j|)^2`` with r the weights of the columns z in the residual.
        """
        constant = b + weights @ self.shift[:-1] - self.shift[-1]
        residual, total = np.concatenate([weights, [-1.0, constant]]), self.matrices[part]
        size = float(np.abs(residual) @ np.sqrt(total.diagonal()))
        rounding = ULPS * np.finfo(np.float64).eps * size**2
        return max(float(residual @ (total @ residual)), 0.0), rounding

    def residuals(self, weights: np.ndarray, b: float) -> tuple[list[float], np.ndarray, float]:
        """By reading the rows again, with ``r_i = w.x_i + b - y_i``: each part's
        ``sum_i s_i r_i^2``; and of the training rows ``sum_i s_i (r_i - mean) (x_i - mean)``,
        (features,), and the mean of ``r_i``.
        """
        counts, features = self.counts, self.encoding.size
        constant = b + weights @ self.shift[:-1] - self.shift[-1]
        squares, products = np.zeros(len(self.matrices)), np.zeros((features + 1, 1))
        for rows in read_rows(self._job, self._at_once):
            numbers = shifted_numbers(rows.encoded, counts.shift, np.float64, self.fills)
            chunk = self.encoding.chunk(rows.encoded, numbers, rows.block)
            residual = np.empty((chunk.rows, 1))
            chunk.multiply(weights[:, None], None, residual)
            residual += constant - (rows.target - counts.center)[:, None]
            for part in range(len(squares)):
                squares[part] += rows.weight_of(part) @ np.square(residual[:, 0])
            residual *= rows.weight_of(TRAIN)[:, None]
            chunk.add(residual, None, products[:-1])
            products[-1] += np.sum(residual)
            del rows, numbers, chunk
        self.readings += 1
        told = processes.added(np.append(squares, products))
        errors, products = np.split(told, [len(squares)])
        mean = products[-1] / self.matrices[TRAIN][-1, -1]
        return errors.tolist(), products[:-1] - mean * self.matrices[TRAIN][:features, -1], mean

    def _add(self, rows: Rows, numbers: np.ndarray) -> None:
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
            if own.size == chunk.rows:
                chunk.add_products(rows.weight, targets, None, total)
            elif own.size:
                weight = None if rows.weight is None else rows.weight[own]
                chunk.take(own).add_products(weight, targets[own], None, total)


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


def path_by_sums(job: Job, sums: ProductSums, data: NormalSums) -> Path:
    """The scores of many penalties on held-out rows, or by generalised cross-validation, from one
    spectrum.

    Reference: Golub, Heath and Wahba (1979), "Generalized cross-validation as a method for
    choosing a good ridge parameter".
    """
    scales, matrix, cross = penalised_sums(data, standardize=job.request.standardize)
    values, vectors = np.linalg.eigh(matrix)
    values, along = np.maximum(values, 0), vectors.T @ cross
    penalties = penalties_from(matrix.diagonal())
    # The rows can be met: their squares and degrees of freedom are no differences of rounded sums.
    rows = sums.counts.weighed
    most = rows - 1
    is_met = 0 < most <= values.size and values[-most] > _cutoff(values)
    if is_met:
        values, along = values[-most:], along[-most:]
        vectors = vectors[:, -most:]
    scores, hidden = np.empty(penalties.size), np.zeros(penalties.size, bool)
    for index, l2 in enumerate(penalties):
        coordinates = along / (values + l2)
        weights = vectors @ coordinates / scales
        intercept = float(data.target_mean[0] - weights @ data.feature_mean)
        squares, rounding = sums.squared_error(TEST * job.is_tested, weights, intercept)
        hidden[index] = squares <= rounding
        if job.is_tested:
            scores[index] = squares
            continue
        if is_met:
            free = np.sum(l2 / (values + l2))
            hidden[index] = False
            squares = np.sum(np.square(l2 * coordinates) / values)
        else:
            free = most - np.sum(values / (values + l2))
        scores[index] = generalised(rows, float(squares), float(free))
    rule = HELD_OUT if job.is_tested else "generalised cross-validation"
    # Of penalties whose errors rounding hides the smallest is chosen.
    best = np.argmax(hidden) if hidden.any() else np.nanargmin(scores)
    return Path(penalties, scores, rule, int(best))


def penalised_sums(
    data: NormalSums, *, standardize: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The numbers by which weights are multiplied before they are penalised, and the sums in these
    units. Those of features that do not vary are zeros.
    """
    scales = np.ones(len(data.gram))
    if standardize:
        spread = np.sqrt(data.gram.diagonal() / data.weight_total)
        scales = np.where(spread > 0, spread, 1.0)
    return scales, data.gram / np.multiply.outer(scales, scales), data.cross[:, 0] / scales


def _cutoff(values: np.ndarray) -> float:
    """The largest of the ascending eigenvalues of sums that may be rounding."""
    return max(RANK, 16 * values.size * np.finfo(np.float64).eps) * max(values[-1], 0)


def solve(
    job: Job, sums: ProductSums, data: NormalSums, l2: float
) -> tuple[np.ndarray, float, list[float], dict[str, Any], list[str]]:
    """The weights, the intercept, each part's squared error, figures by name, and notes of the
    minimiser of ``1/2 sum_i s_i (x_i.w + b - y_i)^2 + l2/2 |D w|^2``, with D the scales, by the
    spectrum of the Hessian scaled to a unit diagonal.

    Directions without curvature get zero: without a penalty the weights are those of least norm
    per column's length. A second solve with the residual refines the first, and others with the
    residuals of the rows, if rounding of the sums may hide a part of the errors. The gradient's
    norm is per unit of each column's length, the rank None where a penalty makes it irrelevant, and
    the degrees of freedom are without that of the intercept.
    """
    scales, hessian, cross = penalised_sums(data, standardize=job.request.standardize)
    diagonal = hessian.diagonal().copy()
    constant = diagonal == 0
    np.fill_diagonal(hessian, diagonal + l2)
    lengths = np.sqrt(diagonal + l2)
    lengths = np.where(lengths > 0, lengths, 1.0)
    hessian /= lengths[:, None]
    hessian /= lengths[None, :]
    cross = cross / lengths
    values, vectors = np.linalg.eigh(hessian)
    is_seen = values > _cutoff(values)
    gain = np.where(is_seen, 1 / np.where(is_seen, values, 1), 0)

    def step(gradient: np.ndarray) -> np.ndarray:
        return vectors @ (gain * (vectors.T @ gradient))

    def unscaled(point: np.ndarray) -> np.ndarray:
        return np.where(constant, 0.0, point / lengths / scales)  # not the rounding of the spectrum

    scaled = step(cross)
    scaled = scaled + step(cross - hessian @ scaled)
    gradient, weights = hessian @ scaled - cross, unscaled(scaled)
    intercept = float(data.target_mean[0] - weights @ data.feature_mean)
    at_zeros = float(np.linalg.norm(cross))
    is_done = bool(np.linalg.norm(gradient) <= CONVERGED * at_zeros or at_zeros == 0)
    left = float(0.5 * np.sum(np.square(vectors.T @ gradient) * gain))
    parts = range(len(sums.matrices))
    known = [sums.squared_error(part, weights, intercept) for part in parts]
    errors = [error for error, _ in known]
    left, is_hidden = left + 0.5 * known[TRAIN][1], any(b > HIDDEN * error for error, b in known)
    eps, before = float(np.finfo(np.float64).eps), np.inf
    while is_hidden:
        errors, pulled, mean = sums.residuals(weights, intercept)
        gradient = np.where(constant, 0.0, (pulled / scales + l2 * scales * weights) / lengths)
        change = step(gradient)
        left = float(0.5 * (gradient @ change + data.weight_total * mean**2))
        penalty = l2 * float(np.sum(np.square(scales * weights)))
        is_done = left <= HIDDEN * (errors[TRAIN] + penalty)
        if is_done or left > before / 4 or sums.readings == MOST_READINGS:
            # The terms of the rows are rounded, and the intercept is.
            size = abs(intercept) + float(np.abs(weights) @ np.abs(data.feature_mean))
            floor = ULPS * eps * known[TRAIN][1] + data.weight_total * (eps * size) ** 2
            is_done |= left <= 0.5 * floor
            break
        change, before = unscaled(change), left
        weights, intercept = weights - change, intercept - mean + float(change @ data.feature_mean)
    along, norm = vectors.T @ gradient, float(np.linalg.norm(gradient))
    value = 0.5 * (errors[TRAIN] + l2 * float(np.sum(np.square(scales * weights))))
    # Along directions that were left out the value may still fall, by an unknown amount.
    beyond = float(np.linalg.norm(along[gain == 0]))
    is_certain = beyond <= DEPENDENT * at_zeros
    evidence = Evidence.FACTORISATION if is_certain else Evidence.BOUND
    rank = int(np.count_nonzero(gain))
    # trace(A (A + l2)^-1), with A + l2 = lengths hessian lengths.
    inverse = np.square(vectors) @ gain / np.square(lengths)
    details = {
        "rank": rank if l2 == 0 else None,
        "degrees_of_freedom": float(lengths.size - l2 * np.sum(inverse)) if l2 else float(rank),
        "value": value,
        "gradient_norm": norm,
        "suboptimality": left if is_certain else value,
        "status": str(Status.CONVERGED if is_done and is_certain else Status.STAGNATED),
        "evidence": evidence.explanation,
    }
    notes = list[str]()
    still = np.flatnonzero(constant)
    if still.size:
        names = listed((job.encoding.feature_name(int(j)) for j in still), most=5)
        verb = "does" if still.size == 1 else "do"
        notes.append(f"{names} {verb} not vary beyond rounding: the weight is zero.")
    varying = weights.size - still.size
    if l2 == 0 and rank < varying and is_certain:
        notes.append(
            f"The features are linearly dependent: rank {rank:,} of {varying:,}. The weights are "
            "those of least norm per column's length; predictions do not depend on the choice."
        )
    elif l2 == 0 and rank < varying:
        notes.append(
            f"Some features are so nearly dependent that float64 cannot tell them apart: rank "
            f"{rank:,} of {varying:,}. What only their small differences explain is left out: take "
            "differences as features, leave some out, or say --l2."
        )
    return weights, intercept, errors, details, notes
