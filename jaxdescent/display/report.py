"""A report in a few lines or as a table, with the most important line first."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import jax

from jaxdescent.display.numbers import LONGEST, guarded, shape_of, signature, values

Rows = list[tuple[str, str]]


class Report(NamedTuple):
    """A title, a remark below it (which may be empty), and rows of a label and a text."""

    title: str
    remark: str
    rows: Rows

    def as_text(self, columns: int | None = None) -> str:
        """Lines for a terminal, with the texts aligned; broken where they would pass ``columns``,
        if a number is given.
        """
        width = max((len(label) for label, text in self.rows if text), default=0)
        if columns is not None:
            width = min(width, columns // 2)
        lines = [*filter(None, [self.title, self.remark])]
        lines = [part for line in lines for part in broken(line, columns)]
        for label, text in self.rows:
            cut = label if len(label) <= width or not text else f"{label[: width - 1]}…"
            start = f"  {cut.ljust(width)}  "
            first, *rest = broken(text, columns, len(start))
            lines += [f"{start}{first}".rstrip(), *(f"{'':{len(start)}}{line}" for line in rest)]
        return "\n".join(lines)

    def as_html(self) -> str:
        """A table for a notebook."""
        left = 'style="text-align:left; white-space:pre-wrap"'
        body = "".join(
            f"<tr><th {left}>{html.escape(label)}</th><td {left}>{html.escape(text)}</td></tr>"
            for label, text in self.rows
        )
        remark = f"<p>{html.escape(self.remark)}</p>" if self.remark else ""
        return f"{_heading(self.title)}{remark}<table><tbody>{body}</tbody></table>"


class Grid(NamedTuple):
    """A title, rows of cells below the heads of their columns, and sentences below; columns whose
    heads are among ``words`` are aligned to the left.
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]
    words: Collection[str]

    def without(self, head: str) -> Grid:
        """The grid without the column of this head, if it has one."""
        kept = [index for index, name in enumerate(self.heads) if name != head]
        heads, *rows = ([row[index] for index in kept] for row in (self.heads, *self.rows))
        return self._replace(heads=heads, rows=rows)

    def lines(self) -> list[str]:
        """The heads and the rows as lines with aligned columns."""
        rows = aligned([self.heads, *self.rows], self.words)
        return ["  ".join(cells).rstrip() for cells in rows]

    def as_text(self) -> str:
        """Lines for a terminal."""
        return "\n".join([self.title, "", *self.lines(), "", *self.notes])

    def as_html(self) -> str:
        """A table for a notebook."""

        def row_of(cells: Sequence[str], tag: str) -> str:
            inside = "".join(
                f'<{tag} style="text-align:{"left" if head in self.words else "right"}">'
                f"{html.escape(cell)}</{tag}>"
                for head, cell in zip(self.heads, cells, strict=True)
            )
            return f"<tr>{inside}</tr>"

        head, body = row_of(self.heads, "th"), "".join(row_of(row, "td") for row in self.rows)
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        table = f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"
        return f"{_heading(self.title)}{table}{notes}"


def aligned(rows: Sequence[Sequence[str]], words: Collection[str]) -> list[list[str]]:
    """The cells of rows, the heads of columns first, each as wide as its column.

    Columns whose heads are among ``words`` are aligned to the left, others to the right.

    >>> aligned([("name", "size"), ("a", "12")], ["name"])
    [['name', 'size'], ['a   ', '  12']]
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        [
            cell.ljust(width) if head in words else cell.rjust(width)
            for head, cell, width in zip(rows[0], row, widths, strict=True)
        ]
        for row in rows
    ]


def _heading(title: str) -> str:
    return f"<p><b>{html.escape(title)}</b></p>"


def broken(text: str, columns: int | None, indent: int = 0) -> list[str]:
    """The lines of a text that stands after ``indent`` spaces; words stay whole.

    >>> broken("one two three", 12, 4)
    ['one two', 'three']
    """
    if columns is None or indent + len(text) <= columns:
        return [text]
    width = max(columns - indent, 1)
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


def leaf_text(leaf: Any) -> str:
    """The dtype, shape and range of a leaf."""

    def show() -> str:
        return "  ".join(filter(None, (signature(leaf), values(leaf))))

    return guarded(show, type(leaf).__name__)


def tree_rows(name: str, tree: Any, most: int, members: int = 1) -> Rows:
    """The number of unknowns in a tree, and its first leaves, in at most ``most`` rows.

    With more than one member, the unknowns are those of each member.
    """
    try:
        leaves = jax.tree.leaves_with_path(tree)
    except Exception:  # a node of the caller's own class that cannot be flattened
        return [(name, type(tree).__name__)]
    if len(leaves) == 1 and not leaves[0][0]:
        return [(name, leaf_text(leaves[0][1]))]
    rows = [(name, guarded(lambda: _content([leaf for _, leaf in leaves], members), "?"))]
    room = most - 1
    shown = leaves if len(leaves) <= room else leaves[: max(room - 1, 0)]
    for path, leaf in shown:
        rows.append((f"  {_path_text(path)}", leaf_text(leaf)))
    if len(shown) < len(leaves) and room > 0:
        rows.append((f"  ... and {len(leaves) - len(shown):,} more", ""))
    return rows


def _content(leaves: list[Any], members: int) -> str:
    unknowns = sum(math.prod(shape_of(leaf) or ()) for leaf in leaves)
    each = ""
    if members > 1 and unknowns % members == 0:
        unknowns, each = unknowns // members, " each"
    counted = f"{unknowns:,} unknown{'s' * (unknowns != 1)}{each}"
    return f"{counted} in {len(leaves):,} {'leaf' if len(leaves) == 1 else 'leaves'}"


def _path_text(path: Any) -> str:
    text = guarded(lambda: " ".join(jax.tree_util.keystr(path).split()), "?")
    # The end of a long path distinguishes leaves.
    return text if len(text) <= LONGEST // 2 else f"...{text[3 - LONGEST // 2 :]}"
