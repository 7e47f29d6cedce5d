"""The memory that each way of fitting takes, and how many rows it reads at a time."""

from __future__ import annotations

from jaxdescent.data import located, row_stream
from jaxdescent.data.chunk import product_rows
from jaxdescent.data.read_ahead import BLOCKS_HELD
from jaxdescent.fit import checkpoint
from jaxdescent.fit.budget import LEVEL_BYTES, MOST_ROWS, SLACK_BYTES, ReadingPlan, reading_of
from jaxdescent.fit.job import Job
from jaxdescent.fit.request import AUTO
from jaxdescent.kernels.memory import resident_bytes

SOLVING_MATRICES = 8
"""Square matrices of the features that the solve by sums holds: the moments, the scaled Hessian,
its eigenvectors, and LAPACK's workspace."""

STARTING_BYTES = 360 << 20
"""Bytes that JAX's compiler takes and keeps."""

ROW_BYTES, NUMBER_BYTES, CODE_BYTES, FEATURE_BYTES = 100, 12, 80, 320
"""Bytes for a row, each of its numbers, levels and hashed values or entries, and a feature: the
vectors of a descent, and of rows in memory the designs in the two orders of their products while
they are sorted. Measured on 1 to 3 million rows, and rounded up."""

FEWEST_PROBES, MOST_PROBES, PROBE_ROWS = 4, 32, 1 << 20
"""The fewest and the most random vectors that estimate degrees of freedom where no rows are held
out, and how many entries all of them have within these bounds."""

PROBE_BYTES = 40
"""Bytes for a row or a feature, for each random vector that estimates degrees of freedom."""

COLUMN_ROW_BYTES, COLUMN_FEATURE_BYTES, COLUMN_BLOCK_BYTES = 40, 80, 24
"""Bytes for a row, a feature and a row of a product's block, for each vector that is multiplied in
a pass over files while a penalty is searched for."""

ENTRY_BYTES = 16
"""Bytes of an entry of a row as it is read: an index and a value."""

MOST_WIDTH = 15
"""The most penalties tried at a time: three decades, of which at most two follow the best one."""

LEAST_ROWS, WIDEST = 64, 4
"""The fewest rows of a block, and its most bytes as a multiple of a product's block."""


def products_side(job: Job) -> int:
    """The side of a matrix of sums: features, marks of missing numbers, the target, and ones."""
    extra = len(job.encoding.numbers) if job.request.missing == "mean" else 0
    return job.encoding.size + extra + 2


def plan_sums(job: Job) -> ReadingPlan:
    """The plan of one pass that adds up products, whether or not it fits the memory."""
    encoding, side = job.encoding, products_side(job)
    numbers = len(encoding.numbers)
    parts, matrix = 1 + job.is_tested, 8 * side**2
    # The product of the last rows, which is added to the sums, and these rows written out.
    dense = side - encoding.size + numbers
    passing = parts * matrix + 8 * dense**2 + 8 * dense * product_rows(dense)
    solving_bytes = (parts + SOLVING_MATRICES) * matrix
    base = resident_bytes() + SLACK_BYTES + LEVEL_BYTES * (encoding.size - numbers)
    base += encoding.level_bytes
    # The numbers less their shift, those of each part, and the marks of missing ones.
    width = encoding.prepared_bytes + 8 * (numbers * parts + dense - numbers)
    reading = reading_of(job.sources, job.roles.columns, width, job.memory.limit - base - passing)
    return reading._replace(bytes=base + max(passing + reading.bytes, solving_bytes))


def counted_rows(job: Job) -> tuple[int, bool]:
    """How many rows all sources have, and whether some of them were read to count them."""
    rows, is_counted = 0, False
    for source in job.sources:
        if source.rows is not None:
            rows += source.rows
            continue
        source.check_restart("a fit of so many features has to know how many rows there are")
        rows += sum(block.rows for block in located(source, [job.roles.target], MOST_ROWS))
        is_counted = True
    return rows, is_counted


def plan_in_memory(job: Job, rows: int) -> ReadingPlan:
    """The plan of a fit of this many rows in memory."""
    encoding = job.encoding
    numbers = len(encoding.numbers) + len(encoding.one_hot) * bool(encoding.sloped)
    of_row, of_feature = NUMBER_BYTES * numbers + CODE_BYTES * len(encoding.one_hot), 0
    if job.request.l2 == AUTO and not job.is_tested:
        of_feature = PROBE_BYTES * probes_for(max(rows, 1))
        of_row += of_feature
    entries = sum(source.entries for source in job.sources) * (encoding.sparse is not None)
    kept = _descent_bytes(job, rows, of_row, of_feature, CODE_BYTES * entries)
    free, width = job.memory.limit - kept, encoding.prepared_bytes
    reading = reading_of(job.sources, job.roles.columns, width, free)
    return reading._replace(bytes=kept + reading.bytes, rows=rows)


def plan_in_files(job: Job, rows: int) -> ReadingPlan:
    """The plan of a fit of this many rows in files, whether or not it fits the memory."""
    encoding, wider, block_bytes = job.encoding, job.dtype.itemsize // 4, row_stream.BLOCK_BYTES
    entries = len(encoding.one_hot)
    if encoding.sparse is not None:
        entries += max(-(-source.entries // max(source.rows or 1, 1)) for source in job.sources)
    # A number, and an index and a value of each entry.
    encoded = 4 * (wider * len(encoding.numbers) + (1 + wider) * entries)
    names, at_a_time = job.roles.columns, row_stream.block_bytes(encoding.size)
    row = max(source.row_bytes(names) for source in job.sources)
    row += ENTRY_BYTES * entries + 2 * encoded + encoding.prepared_bytes
    # As many rows as a product takes at a time, which then copies nothing, unless text is wide.
    at_once = min(at_a_time // max(encoded, 1), WIDEST * block_bytes // row, MOST_ROWS)
    at_once = max(at_once, LEAST_ROWS)
    # Blocks as they are read, and the chunks that a product puts together from them.
    held = BLOCKS_HELD * (at_once * row + 2 * max(at_a_time, encoded * LEAST_ROWS))
    held += max(source.reading_bytes(names, at_once) for source in job.sources)
    needed, width = held + _descent_bytes(job, rows), 1
    if job.request.l2 == AUTO:
        targets = 1 if job.is_tested else 1 + probes_for(max(rows, 1))
        block = min(block_bytes // max(encoded, 1), row_stream.MOST_ROWS, max(rows, 1))
        vectors = _vector_bytes(job, rows, COLUMN_ROW_BYTES, COLUMN_FEATURE_BYTES)
        of_penalty = wider * targets * (vectors + COLUMN_BLOCK_BYTES * block)
        width = max(min(int((job.memory.limit - needed) // of_penalty), MOST_WIDTH), 1)
        if job.checkpoint is not None:
            width = job.checkpoint.kept.get("width", width)
        needed += width * of_penalty
    return ReadingPlan(needed, at_once, rows, width)


def _descent_bytes(
    job: Job, rows: int, of_row: int = 0, of_feature: int = 0, others: int = 0
) -> int:
    """Bytes of the process in a descent: its vectors, and so many bytes more of a row, a feature
    and other things in float32.
    """
    vectors = _vector_bytes(job, rows, ROW_BYTES + of_row, FEATURE_BYTES + of_feature)
    held = job.dtype.itemsize // 4 * (vectors + others)
    return resident_bytes() + STARTING_BYTES + held + job.encoding.level_bytes


def _vector_bytes(job: Job, rows: int, of_row: int, of_feature: int) -> int:
    """Bytes of vectors over the rows and features, and of their copies for checkpoints."""
    if job.checkpoint is not None:
        of_row, of_feature = of_row + checkpoint.ROW_BYTES, of_feature + checkpoint.FEATURE_BYTES
    return of_row * rows + of_feature * job.encoding.size


def probes_for(rows: int) -> int:
    """How many random vectors estimate the trace."""
    return min(max(PROBE_ROWS // rows, FEWEST_PROBES), MOST_PROBES)
