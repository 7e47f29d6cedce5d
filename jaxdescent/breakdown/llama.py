"""Part 3: descent on as many parameters as a large language model has, in the same shapes."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from rich.console import Console

from jaxdescent.breakdown import independent_weights, matrix_free_regression, tied_weights
from jaxdescent.breakdown.report import PartReport, Settings

WIDTH, KEY_VALUE, FEED_FORWARD, VOCABULARY, LAYERS = 4096, 1024, 14336, 128256, 32

QUICK_PARAMS = 40_000_000


class Tree(NamedTuple):
    """Shapes by name, and a description of their share of the whole model."""

    shapes: dict[str, tuple[int, ...]]
    description: str

    @property
    def size(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes.values())


def tree(max_params: int | None = None) -> Tree:
    """The shapes of Llama-3-8B, or of the largest part of it that has at most ``max_params``.

    Layers are left out first, then the two embeddings, then matrices of a layer.
    """
    ends = {
        "embedding": (VOCABULARY, WIDTH),
        "head": (VOCABULARY, WIDTH),
        "norm": (WIDTH,),
    }
    layer = {
        "query": (WIDTH, WIDTH),
        "key": (KEY_VALUE, WIDTH),
        "value": (KEY_VALUE, WIDTH),
        "output": (WIDTH, WIDTH),
        "gate": (FEED_FORWARD, WIDTH),
        "up": (FEED_FORWARD, WIDTH),
        "down": (WIDTH, FEED_FORWARD),
        "attention_norm": (WIDTH,),
        "feed_forward_norm": (WIDTH,),
    }

    def layers(count: int) -> dict[str, tuple[int, ...]]:
        return {f"layer{i}.{name}": shape for i in range(count) for name, shape in layer.items()}

    whole = Tree(ends | layers(LAYERS), f"all {LAYERS} layers")
    if max_params is None or max_params >= whole.size:
        return whole
    for with_ends in (ends, {}):
        base = Tree(with_ends, "").size
        count = (max_params - base) // Tree(layer, "").size
        if count >= 1:
            count = min(count, LAYERS)
            words = f"{count} of {LAYERS} layers{' and the embeddings' if with_ends else ''}"
            return Tree(with_ends | layers(count), words)
    part: dict[str, tuple[int, ...]] = {}
    for name, shape in sorted(layer.items(), key=lambda item: -math.prod(item[1])):
        if Tree(part, "").size + math.prod(shape) <= max_params:
            part[name] = shape
    if not part:
        raise ValueError(
            f"--params must be at least {WIDTH:,}, the smallest vector of the model, got "
            f"{max_params:,}."
        )
    return Tree(part, "matrices of one layer")


def run(settings: Settings, console: Console) -> PartReport:
    """Run the separable case on all parameters, and if asked for, two coupled problems."""
    limit = settings.max_params
    if settings.quick:
        limit = min(limit or QUICK_PARAMS, QUICK_PARAMS)
    reports = [independent_weights.run(settings, console, lambda most: tree(_least(limit, most)))]
    is_interrupted = False
    try:
        if settings.everything and reports[-1].is_complete:
            reports.append(
                tied_weights.run(settings, console, lambda most: tree(_least(limit, most)))
            )
        if settings.everything and reports[-1].is_complete:
            reports.append(matrix_free_regression.run(settings, console, limit))
    except KeyboardInterrupt:
        is_interrupted = True  # the reports before it are kept
    return _joined(reports, is_complete=not is_interrupted)


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _joined(reports: list[PartReport], *, is_complete: bool) -> PartReport:
    numbers: dict[str, Any] = {}
    for report in reports:
        numbers |= report.numbers
    return PartReport(
        number=3,
        title="Eight billion parameters",
        verdict=tuple(v for report in reports for v in report.verdict),
        numbers=numbers,
        points=tuple(p for report in reports for p in report.points),
        sections=tuple(reports),
        is_complete=is_complete and all(report.is_complete for report in reports),
    )
