"""A fit of rows that do not fit in memory, of more features than sums: they are read in each pass.

Vectors stay in memory, those over the rows (target, weight, residuals) and over the features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdescent import processes
from jaxdescent.data.freeing import return_what_is_freed
from jaxdescent.fit import shared_rows
from jaxdescent.fit.descents import descend
from jaxdescent.fit.encoded_rows import EncodedRows
from jaxdescent.fit.encoding import Encoding
from jaxdescent.fit.fitted import Predictions
from jaxdescent.fit.job import Job
from jaxdescent.fit.methods import IN_FILES, method_of
from jaxdescent.fit.penalty_path import Tried, Try, has_converged
from jaxdescent.fit.plans import FitPlan
from jaxdescent.fit.rows import TEST, TRAIN, read_rows
from jaxdescent.fit.vectors import Vectors
from jaxdescent.regression import LinearRegression


class RowsInFiles:
    """Rows that are read once for their vectors, again in each pass of a descent, and for the
    figures; those of other data for the vectors and the figures alone.
    """

    where, default = "that stay in the files", IN_FILES

    def __init__(self, job: Job, plan: FitPlan) -> None:
        return_what_is_freed()
        self._job, self._plan, self.width = job, plan, plan.width
        shares = None if processes.is_alone() else job.checkpoint
        units = {} if shares is None else shares.units()
        self.vectors = Vectors(job, plan, has_others=False, shift=units.get("shift"))
        if units:  # the units of the fit that is resumed
            self.vectors.use(units)
        self._source = source = EncodedRows(job, self.vectors, plan.at_once)
        options = {"categorical": source.categorical, "sparse": source.sparse, "dtype": job.dtype}
        self.design = shared_rows.streamed(source, job.encoding.numbers, **options)
        if shares is not None:
            shares.check_rows(self.design.held.rows, self.vectors.counts.dropped)
            if not units:
                shares.keep_units(self.vectors.units)

    def attempts(self, objective: LinearRegression) -> Try:
        """Descents that share each pass: the penalties, and the targets of each, are outputs of one
        regression, each a problem of its own to LSMR.
        """
        dtype, watch = objective.y.dtype, self._job.watch
        method = method_of(IN_FILES)

        def attempt(targets: np.ndarray, penalties: Sequence[float], params: list[Any]) -> Tried:
            count, each = len(penalties), targets.shape[1]
            problem = dataclasses.replace(
                objective,
                y=jnp.tile(jnp.asarray(targets), (1, count)),
                l2=jnp.repeat(jnp.asarray(penalties, dtype), each),
            )
            given = {
                name: jnp.tile(jnp.stack([own[name] for own in params], axis=-1), count)
                for name in ("weights", "intercept")
            }
            text = f"l2 {penalties[0]:.3g} to {penalties[-1]:.3g}"

            def tell(iteration: int, value: float, left: float) -> None:
                del value, left
                watch.tell(f"{text}, iteration {iteration}")

            name = f"search-{count}-{penalties[0]:.6e}"
            result = descend(self._job, problem, given, method, tell, name=name)
            predicted = problem.predict(result.params, problem.X)
            found = [
                [{name: each[..., place] for name, each in result.params.items()} for place in own]
                for own in np.arange(count * each).reshape(count, each)
            ]
            return Tried(
                found,
                [lambda t, k=k: predicted[:, k * each + t] for k in range(count)],
                has_converged(result),
                int(result.iterations),
            )

        return attempt

    def predictions(
        self, encoding: Encoding, model: tuple[np.ndarray, float], product: Callable[[], Any]
    ) -> Predictions:
        """The predictions of all rows in float64: one more pass over all sources."""
        del product
        weights, intercept = model
        job = self._job._replace(roles=self._job.roles._replace(features=encoding))
        for rows, _ in read_rows(job, self._plan.at_once):
            predicted = encoding.product(rows.encoded, weights) + intercept
            yield predicted, rows.target, [rows.weight_of(part) for part in (TRAIN, TEST)]

    def free_constants(self) -> tuple[str, int]:
        """How many constants the levels leave free at least, as far as is known without codes."""
        encoding = self._job.encoding
        is_known = self._job.request.missing != "mean"
        return "at least ", len(encoding.levels.keys() - encoding.sloped) * is_known

    def read(self) -> dict[str, int]:
        """How many rows were read, and in how many passes."""
        read = 2 * self.vectors.counts.read + self._source.rows_read
        return {"rows_read": read, "passes": 2 + self.design.passes, "test_passes": 2}
