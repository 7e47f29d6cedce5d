"""The shapes of the parameters of Llama-3-8B."""

from __future__ import annotations

import math
from typing import NamedTuple

WIDTH, KEY_VALUE, FEED_FORWARD, VOCABULARY, LAYERS = 4096, 1024, 14336, 128256, 32


class Tree(NamedTuple):
    """Shapes by name, and a description of their share of the whole model."""

    shapes: dict[str, tuple[int, ...]]
    description: str

    @property
    def size(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes.values())

    @property
    def largest(self) -> int:
        """The size of the largest array."""
        return max(math.prod(shape) for shape in self.shapes.values())


def tree(*limits: int | None) -> Tree:
    """The shapes of Llama-3-8B, or of the largest part of it that keeps within these numbers of
    parameters.

    Layers are left out first, then the two embeddings, then matrices of a layer.
    """
    max_params = min((limit for limit in limits if limit is not None), default=None)
    ends = {"embedding": (VOCABULARY, WIDTH), "head": (VOCABULARY, WIDTH), "norm": (WIDTH,)}
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
