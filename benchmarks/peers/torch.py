"""PyTorch on the CPU."""

from __future__ import annotations

import gc
import time
from typing import Any

import numpy as np

from benchmarks.harness.case import Answer, Factory, NotOffered, Solve
from benchmarks.problems import batches, regression, separable

NAME = "PyTorch"
PACKAGE = "torch"
DISTRIBUTION = "torch"

ITERATIONS = 20
MAX_ITERATIONS = 20_000


def _separable(form: str) -> Factory:
    def prepare(data: separable.Tree) -> Solve:
        import torch

        positions = data.positions()

        def sample(params: dict[str, Any]) -> np.ndarray:
            parts = [params[name][at].detach().float().numpy() for name, at in positions.items()]
            return np.concatenate(parts)

        def step(x: Any) -> None:
            if form == "in place, gradient by hand":
                x.sub_(2 * x, alpha=separable.RATE)
                return
            x.requires_grad_(True)
            (gradient,) = torch.autograd.grad((x * x).sum(), x)
            x.requires_grad_(False)
            x.sub_(gradient, alpha=separable.RATE)

        def solve(_: float) -> Answer:
            gc.collect()
            # Leaf by leaf: a whole second copy would count in the peak of memory.
            drawn = data.draw()
            params = {name: torch.from_dlpack(drawn.pop(name)) for name in list(drawn)}
            starts = sample(params)
            for x in params.values():
                step(x)  # is not counted
            started = time.perf_counter()
            for _i in range(ITERATIONS):
                for x in params.values():
                    step(x)
            seconds = (time.perf_counter() - started) / ITERATIONS
            size = sum(x.numel() * x.element_size() for x in params.values())
            proof = separable.evidence(starts, sample(params), ITERATIONS + 1, ITERATIONS + 1)
            return Answer(proof, ITERATIONS, seconds, {"params_bytes": size})

        return solve

    return prepare


def _gradient(*, is_automatic: bool) -> Factory:
    def prepare(data: regression.GradientData) -> Solve:
        import torch

        dtype = getattr(torch, data.dtype)
        X, y = torch.from_numpy(data.X).to(dtype), torch.from_numpy(data.y).to(dtype)
        w = torch.from_numpy(data.w).to(dtype)

        def solve(_: float) -> Answer:
            if is_automatic:
                variable = w.clone().requires_grad_(True)
                loss = 0.5 * ((X @ variable - y) ** 2).sum()
                (gradient,) = torch.autograd.grad(loss, variable)
            else:
                gradient = X.T @ (X @ w - y)
            return Answer(gradient.float().numpy())

        return solve

    return prepare


def _lstsq(driver: str) -> Factory:
    def prepare(data: regression.Data) -> Solve:
        import torch

        if np.any(data.l2):
            raise NotOffered("torch.linalg.lstsq takes no penalty")
        X, Y = torch.from_numpy(data.X), torch.from_numpy(data.Y)
        return lambda _: Answer(torch.linalg.lstsq(X, Y, driver=driver).solution.numpy())

    return prepare


def _normal_equations(data: regression.Data) -> Solve:
    import torch

    X, Y = torch.from_numpy(data.X), torch.from_numpy(data.Y)
    is_dual = X.shape[0] < X.shape[1]

    def solve(_: float) -> Answer:
        gram = X @ X.T if is_dual else X.T @ X
        right = Y if is_dual else X.T @ Y
        columns = []
        for penalty in np.unique(data.l2):
            shifted = gram + float(penalty) * torch.eye(len(gram))
            factor = torch.linalg.cholesky(shifted)
            which = torch.from_numpy(np.flatnonzero(data.l2 == penalty))
            columns.append(torch.cholesky_solve(right[:, which], factor))
        found = torch.hstack(columns)
        return Answer((X.T @ found if is_dual else found).numpy())

    return solve


def _regressions(data: batches.RegressionsData) -> Solve:
    import torch

    X, y = torch.from_numpy(data.X), torch.from_numpy(data.y)[..., None]
    return lambda _: Answer(torch.linalg.lstsq(X, y).solution[..., 0].numpy())


def _rates(data: batches.RatesData) -> Solve:
    import torch

    X, y = torch.from_numpy(data.X), torch.from_numpy(data.y)

    def solve(_: float) -> Answer:
        found = []
        for rate in data.rates:
            w = torch.zeros(X.shape[1], requires_grad=True)
            optimiser = torch.optim.SGD([w], lr=float(rate))
            for _i in range(data.iterations):
                optimiser.zero_grad()
                (0.5 * ((X @ w - y) ** 2).sum()).backward()
                optimiser.step()
            found.append(w.detach().numpy())
        return Answer(np.stack(found), data.iterations)

    return solve


CONTENDERS: dict[str, dict[str, Factory]] = {
    "separable": {
        name: _separable(name) for name in ("in place, gradient by hand", "in place, autograd")
    },
    "gradient": {
        "X'(Xw - y)": _gradient(is_automatic=False),
        "autograd": _gradient(is_automatic=True),
    },
    "regression": {
        "lstsq gelsy": _lstsq("gelsy"),
        "lstsq gels": _lstsq("gels"),
        "Cholesky of normal equations": _normal_equations,
    },
    "batch of regressions": {"batched lstsq": _regressions},
    "batch of rates": {"Python loop of SGD": _rates},
}
CONTENDERS["descents"] = CONTENDERS["regression"]
