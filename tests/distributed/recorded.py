"""A source of rows that notes which of them are read."""

from jaxdescent.data.wrapped import WrappedSource


class Recorded(WrappedSource):
    """Adds the numbers of the rows to a set of which the first feature is read."""

    def __init__(self, base, seen):
        super().__init__(base)
        self.seen = seen

    def start_before(self, row):
        return self.base.start_before(row)

    def blocks(self, names, rows, begin=0):
        for block in self.base.blocks(names, rows, begin):
            if "x0" in names:
                self.seen.update(range(block.start_in_file, block.start_in_file + block.rows))
            yield block
