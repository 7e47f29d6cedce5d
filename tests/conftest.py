"""A strict JAX, on eight virtual CPU devices, or as users have it."""

import contextlib
import gc
import os
import signal
import tempfile

# What nearly every user has: one CPU, no flags, and LLVM's optimisation (`make test-as-users`).
AS_USERS = os.environ.get("JAXDESCENT_TEST_AS_USERS") == "1"
DEVICES = 1 if AS_USERS else 8
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if not AS_USERS:
    # Before the first import of JAX: it reads the flags once. A program is compiled in one piece,
    # as the other cores have tests of their own.
    os.environ["XLA_FLAGS"] = (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={DEVICES} "
        "--xla_cpu_parallel_codegen_split_count=1"
    )
    # XLA makes the same program out of the same passes, then LLVM does not polish its machine code:
    # most of the time of these tests is compilation, and few look at what LLVM may do. Those are
    # marked `optimized`. JAX_DISABLE_MOST_OPTIMIZATIONS=0 polishes all.
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    # OpenBLAS' threads wait in a loop for a core that has another test: SciPy's L-BFGS took twenty
    # times as long with them.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# A shell's background jobs are born deaf to Ctrl-C, which some tests send to themselves, and so are
# the processes that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Neither is the user's calibration read, nor is one left behind.
CACHE = tempfile.TemporaryDirectory(prefix="jaxdescent-cache-")
os.environ["XDG_CACHE_HOME"] = CACHE.name
# Commands that run in the tests' process would set JAX's cache of programs for all tests after.
os.environ["JAXDESCENT_CACHE"] = "off"

# Where this names a folder, programs are loaded that an earlier run has compiled: `make test`. Not
# in the processes that tests start, whose memory is measured while they compile.
PROGRAMS = os.environ.get("JAXDESCENT_TEST_PROGRAMS", "")

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

from jaxdescent import compilation_cache  # noqa: E402
from jaxdescent.cost import candidates  # noqa: E402
from jaxdescent.designs import Dense  # noqa: E402
from jaxdescent.kernels import host, platform  # noqa: E402
from jaxdescent.machine import defaults, store  # noqa: E402
from tests.compilations import forget_programs  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

if PROGRAMS:
    compilation_cache.cache(PROGRAMS)

# The first example of a property compiles: no deadline. Same examples in every run.
settings.register_profile(
    "jaxdescent",
    deadline=None,
    derandomize=True,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("jaxdescent")

# Plans are made with the default's rates, whatever else this host does, and none is measured first.
HOST = {"platform": "cpu", "kind": host.processor(), "cores": host.usable_cores()}
store.keep(
    HOST,
    defaults.default_rates("cpu", HOST["cores"])
    | {"is_measured": True, "measured_at": 1.7e9, "others": 0.0, "spread": 1.0},
)

# Tracing makes millions of objects that live on: to look through them for garbage as often as by
# default took up to a tenth of a module's time.
gc.set_threshold(100_000, 10, 10)

# A compiled program takes about twenty mappings, of which Linux gives a process 65,530.
MOST_MAPPINGS = 20_000

IS_POLISHED = not jax.config.read("jax_disable_most_optimizations")


def pytest_configure(config):
    if PROGRAMS:  # a program that another run has not written to its end is compiled
        config.addinivalue_line("filterwarnings", "ignore:Error reading persistent compilation")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Of the cases of a test that is marked ``first`` all but the first are slow, or but the first
    one that is not slow anyway.
    """
    met = set()
    for item in items:
        if item.get_closest_marker("first") is None or item.get_closest_marker("slow"):
            continue
        if (test := item.nodeid.split("[")[0]) in met:
            item.add_marker(pytest.mark.slow)
        met.add(test)


@pytest.fixture(autouse=True, scope="module")
def optimization(request):
    """LLVM's optimisation for the modules that are marked so: programs know nothing of it."""
    is_asked_for = request.node.get_closest_marker("optimized") is not None
    with polishing() if is_asked_for else contextlib.nullcontext():
        yield


@pytest.fixture
def polished():
    """LLVM's optimisation for one test."""
    with polishing():
        yield


@contextlib.contextmanager
def polishing():
    if IS_POLISHED:
        yield
        return
    forget_programs()
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
    forget_programs()


@pytest.fixture(autouse=True, scope="module")
def frozen():
    """What a module leaves behind, traced programs above all, is not looked through for garbage
    again; and no process keeps more programs than its system maps."""
    yield
    if mappings() > MOST_MAPPINGS:
        forget_programs()
    gc.collect()
    gc.freeze()


def mappings() -> int:
    """How many parts of memory this process has mapped; 0 where the system does not tell."""
    try:
        with open("/proc/self/maps", "rb") as lines:
            return sum(1 for _ in lines)
    except FileNotFoundError:
        return 0


@pytest.fixture
def several_devices():
    """For tests that lay arrays over devices, or ask for the forms that programs have then."""
    if AS_USERS:
        pytest.skip("is about eight devices, and nearly every user has one")


@pytest.fixture
def one_cpu(monkeypatch):
    """Programs have the forms of one CPU, as nearly every user has it."""
    monkeypatch.setattr(platform, "has_one_cpu", lambda: True)


@pytest.fixture
def whole(monkeypatch):
    """Traced arrays are known to lie on one device, as where there is only one."""
    monkeypatch.setattr(Dense, "is_whole", True)


@pytest.fixture
def one_device(monkeypatch):
    """Sums go through memory where there are several devices: here they are one CPU's."""
    monkeypatch.setattr(jax, "device_count", lambda *_: 1)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def x64():
    """Double precision within one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def only(monkeypatch):
    """Leaves of the methods that plans compare those of these names: each takes seconds to compile
    in an exact plan."""
    whole = dict(candidates.TABLE)

    def leave(*names):
        for kind, entries in whole.items():
            kept = tuple(entry for entry in entries if entry.name in names)
            monkeypatch.setitem(candidates.TABLE, kind, kept)

    return leave


@pytest.fixture
def relaxed_promotion():
    """What optax needs: some of its transformations mix dtypes and ranks."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
