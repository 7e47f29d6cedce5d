"""How often a method reads X, counted as it runs."""

import dataclasses

import jax

from jaxdescent.designs import Dense

COUNT = [0]


def _count():
    COUNT[0] += 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Counted(Dense):
    """A dense X that counts the products with it."""

    def product(self, weights):
        jax.debug.callback(_count)
        return super().product(weights)

    def transposed_product(self, residual):
        jax.debug.callback(_count)
        return super().transposed_product(residual)


def passes(function):
    """The products with every :class:`Counted` X while ``function`` runs, and its result."""
    jax.block_until_ready(function())  # compiles
    jax.effects_barrier()
    COUNT[0] = 0
    result = jax.block_until_ready(function())
    jax.effects_barrier()
    return COUNT[0], result
