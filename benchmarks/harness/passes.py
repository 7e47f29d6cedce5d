"""How often X is read, counted as it runs."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.custom_derivatives import linear_call

from jaxdescent.designs import Dense


@dataclasses.dataclass
class Tally:
    """What was seen of X: how often it was read, and whether someone took all of it as an array."""

    passes: float = 0.0
    is_taken: bool = False

    def add(self, share=1.0):
        self.passes += share

    def take(self):
        self.is_taken = True


TALLY = Tally()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Counted(Dense):
    """A dense X that counts the products with it, and the readings of its rows and columns.

    A product with many vectors at once is one pass.
    """

    def product(self, weights):
        jax.debug.callback(TALLY.add)
        return super().product(weights)

    def transposed_product(self, residual):
        jax.debug.callback(TALLY.add)
        return super().transposed_product(residual)

    def to_dense(self):
        jax.debug.callback(TALLY.take)
        return super().to_dense()

    def column_squared_norms(self, row_weight, center):
        jax.debug.callback(TALLY.add)
        return super().column_squared_norms(row_weight, center)

    def rows_at(self, index):
        jax.debug.callback(functools.partial(TALLY.add, index.size / self.shape[0]))
        return super().rows_at(index)

    def there_and_back(self, weights, change, rows):
        if self.center is not None:  # on one CPU each block is shifted once, for both products
            jax.debug.callback(TALLY.add)
            return super().there_and_back(weights, change, rows)
        kept, residual = change(self.product(weights), rows)
        return kept, self.transposed_product(residual)

    def row_block(self, start, size):
        jax.debug.callback(functools.partial(TALLY.add, size / self.shape[0]))
        return super().row_block(start, size)


def counted_product(X, w):
    """``X @ w`` that counts itself, and the products with X' that its derivatives make."""

    def product(X, w):
        jax.debug.callback(TALLY.add)
        return jnp.matmul(X, w, precision="highest")

    def transposed(X, residual):
        jax.debug.callback(TALLY.add)
        return jnp.matmul(residual, X, precision="highest")

    return linear_call(product, transposed, X, w)


def passes(function):
    """The passes over X while ``function`` runs, and its result."""
    _run(function)  # compiles
    return _run(function)


def passes_if_seen(function):
    """The passes while ``function`` runs; None if it took X as an array, whose use nobody sees."""
    count, _ = _run(function)
    return None if TALLY.is_taken else count


def _run(function):
    jax.effects_barrier()
    TALLY.passes, TALLY.is_taken = 0.0, False
    result = jax.block_until_ready(function())
    jax.effects_barrier()
    return TALLY.passes, result
