"""Params in the host's memory: what programs for GPUs and TPUs that are not here reserve where."""

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import jaxdescent as jd
from benchmarks.studies.accelerators import mesh
from jaxdescent.kernels import host_memory
from jaxdescent.scale.compiled import Compiled
from tests.accelerators import MARKS

pytestmark = MARKS

ROWS, COLUMNS = 3 << 15, 1 << 18
"""Of the params of a device in float32: 103 GB, more than any device here has."""

METHODS = {"constant": (jd.GradientDescent(0.1), 1), "adam": (optax.adam(0.1), 3)}
"""And how many arrays like the params there are with the state."""


def program(name, method):
    """A descent from params that are born in the host's memory, chunk by chunk.

    XLA's description of a GPU has no memories, so that no argument can lie in the host's.
    """
    devices = mesh(name)
    spec = PartitionSpec(None, "devices") if devices.size > 1 else PartitionSpec()
    shape = ROWS, COLUMNS * devices.size

    def descend(number):
        place = NamedSharding(devices, spec)
        zeros = jax.lax.with_sharding_constraint(jnp.zeros(shape, jnp.float32), place)
        params = jax.device_put(zeros, jax.memory.Space.Host)
        cut = host_memory.cut_of(params)

        def fill(start, size, index, params):
            part = jnp.full((size, shape[1]), number + index, jnp.float32)
            return host_memory.written(params, part, cut, start)

        params = host_memory.visit(params, cut, True, fill, params)
        result = jd.minimize(jd.SumOfSquares(), params, method, max_iterations=100)
        return result.params, result.state, result.value

    whole = NamedSharding(devices, PartitionSpec())
    return Compiled(descend, jax.ShapeDtypeStruct((), jnp.float32, sharding=whole))


@pytest.mark.parametrize(
    ("name", "method"), [("h100", "adam"), ("8xh100", "constant"), ("v5e:2x4", "adam")]
)
def test_a_device_has_a_few_chunks_of_params_that_it_has_no_room_for(name, method):
    made, arrays = METHODS[method]
    with jax.numpy_dtype_promotion("standard"):  # which optax needs
        compiled = program(name, made)
    params = 4 * ROWS * COLUMNS
    chunk = max(host_memory.CHUNK_BYTES, 4 * COLUMNS)
    assert compiled.peak < 8 * chunk
    memory = compiled.memory
    kept = memory.host_output_size_in_bytes - memory.host_alias_size_in_bytes
    on_host = memory.host_argument_size_in_bytes + memory.host_temp_size_in_bytes + max(kept, 0)
    assert on_host == arrays * params  # and no copy of them there
    assert {sent.kind for sent in compiled.sent} <= {"all-reduce"}
    assert all(sent.size < 1 << 16 for sent in compiled.sent)  # sums of chunks
