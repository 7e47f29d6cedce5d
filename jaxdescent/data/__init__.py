"""Sources of rows: files and tables behind one small protocol.

>>> import numpy as np
>>> source = open_source({"X": np.ones((10, 2)), "y": np.arange(10.0)})
>>> list(source.kinds), source.rows
(['x0', 'x1', 'y'], 10)
"""

from jaxdescent.data.decoding import Decoding as Decoding
from jaxdescent.data.entries import SparseColumn as SparseColumn
from jaxdescent.data.filters import Filtered as Filtered
from jaxdescent.data.normal_sums import NormalSolution as NormalSolution
from jaxdescent.data.normal_sums import NormalSums as NormalSums
from jaxdescent.data.normal_sums import normal_solution as normal_solution
from jaxdescent.data.opening import open_source as open_source
from jaxdescent.data.protocol import Block as Block
from jaxdescent.data.protocol import Kind as Kind
from jaxdescent.data.protocol import Source as Source
from jaxdescent.data.protocol import located as located
from jaxdescent.data.read_ahead import read_ahead as read_ahead
from jaxdescent.data.row_stream import RowStream as RowStream
from jaxdescent.data.shares import Shares as Shares
from jaxdescent.data.shares import cut_source as cut_source
from jaxdescent.rows.errors import DataError as DataError
from jaxdescent.rows.hashing import MOST_BITS as MOST_BITS
