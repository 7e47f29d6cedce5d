"""Sources of rows: files, tables and arrays behind one small protocol."""

from jaxdescent.rows.errors import DataError as DataError
from jaxdescent.rows.loaders import Loader as Loader
from jaxdescent.rows.opening import open_source as open_source
from jaxdescent.rows.source import Block as Block
from jaxdescent.rows.source import Kind as Kind
from jaxdescent.rows.source import Source as Source
from jaxdescent.rows.source import equal_blocks as equal_blocks
