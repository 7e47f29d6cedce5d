"""pyarrow, which reads everything but ``.npy`` and NumPy's arrays, and compares the values of
conditions. Its modules are imported when one of their names is first used.
"""

from __future__ import annotations

import importlib
from typing import Any


class _Module:
    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # tools that look at all names of a module ask for such
            raise AttributeError(name)
        try:
            return getattr(importlib.import_module(self._name), name)
        except ModuleNotFoundError as error:  # a damaged one tells what it lacks
            raise ImportError(
                "Parquet, CSV, text columns, tables and conditions on rows need pyarrow, which is "
                "not installed: pip install 'jaxdescent[data]'"
            ) from error


NAMES = "pyarrow", "pyarrow.compute", "pyarrow.csv", "pyarrow.parquet"
pa, pc, csv, pq = map(_Module, NAMES)
