"""A source of rows that notes which of them are read."""

from jaxdescent.rows import Source


class Recorded(Source):
    """Adds the numbers of the rows to a set of which the first feature is read."""

    def __init__(self, base, seen, first=0):
        self.base, self.seen, self.first = base, seen, first
        self.form, self.kinds, self.rows, self.files = base.form, base.kinds, base.rows, base.files

    def blocks(self, names, size, row=0):
        for block in self.base.blocks(names, size, row):
            if "x0" in names:
                start = self.first + block.start
                self.seen.update(range(start, start + block.rows))
            yield block

    def slice(self, first, rows):
        return type(self)(self.base.slice(first, rows), self.seen, self.first + first)
