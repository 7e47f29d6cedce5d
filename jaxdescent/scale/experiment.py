"""An experiment: the points of a grid of problems, sizes, methods, layouts and devices; a point is
one run of one program.
"""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import tomllib
from collections.abc import Callable
from typing import Any

import jaxdescent as jd
from jaxdescent.designs.sparse_entries import LARGEST_SIDE
from jaxdescent.machine.defaults import DTYPES
from jaxdescent.planning.hardware import mesh_named
from jaxdescent.scale.problems import LAYOUTS, PROBLEMS

METHODS: dict[str, Callable[[], Any]] = {
    "cg": jd.ConjugateGradient,
    "cg-jacobi": lambda: jd.ConjugateGradient(jd.Jacobi()),
    "lsmr": jd.LSMR,
    "lbfgs": jd.LBFGS,
    "gradient": lambda: jd.GradientDescent(jd.Backtracking()),
    "barzilai-borwein": lambda: jd.GradientDescent(jd.BarzilaiBorwein()),
    "constant": lambda: jd.GradientDescent(1e-3),
    "gram": jd.Gram,
    "direct": jd.DerivativeMethod,
}

AT_ONCE = ("gram", "direct")
"""The methods without iterations: a whole solve is timed for them."""


@dataclasses.dataclass(frozen=True)
class ScalingPoint:
    """One run of one program."""

    problem: str  # a key of :data:`jaxdescent.scale.problems.PROBLEMS`
    rows: int  # those of the whole regression; 0 where a problem has none
    features: int  # likewise
    method: str  # a name in :data:`METHODS`
    dtype: str  # how data and params are stored
    layout: str  # the axes over the devices, a key of :data:`jaxdescent.scale.problems.LAYOUTS`
    devices: int  # the number of devices
    # The name of devices that are not attached, for a rehearsal; empty for a run here.
    target: str = ""
    outputs: int = 1  # how many targets the whole regression has for each row

    def describe(self) -> str:
        """The point in a few words."""
        return f"{self.what}, {self.method}, {self.layout} over {self.where}"

    @property
    def what(self) -> str:
        """The problem, its size and its dtype."""
        size = f" {self.rows:,} x {self.features:,}" if self.rows else ""
        outputs = f", {self.outputs:,} outputs," if self.outputs > 1 else ""
        return f"{self.problem}{size}{outputs} {self.dtype}"

    @property
    def grows(self) -> str:
        """The size that grows with the devices in weak scaling: "rows", or "outputs"."""
        return "outputs" if self.layout == "outputs" else "rows"

    @property
    def where(self) -> str:
        """The devices, by name or by number."""
        return self.target or f"{self.devices} device{'s' if self.devices > 1 else ''}"


SCALINGS = ("strong", "weak")


class BadExperiment(ValueError):
    """An experiment that cannot be run, with what to change."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Lists of which every combination is a point, and how often each is measured.

    ``own`` has the fields that differ for single problems: in a TOML file, the table ``[hashed]``.

    With ``scaling="weak"`` the rows (in the layout by outputs, the outputs) are those of each
    device, with ``"strong"`` those of the whole.

    Raises:
      BadExperiment: if a name is unknown, a number is not positive, or a list is empty.

    >>> grid = Experiment(problems=("dense",), rows=(1000,), features=(8,), devices=(1, 2))
    >>> [point.rows for point in grid.points()]
    [1000, 1000]
    >>> grid = dataclasses.replace(grid, scaling="weak")
    >>> [point.rows for point in grid.points()]
    [1000, 2000]
    """

    problems: tuple[str, ...] = ("dense",)
    rows: tuple[int, ...] = (100_000,)
    features: tuple[int, ...] = (256,)
    methods: tuple[str, ...] = ("cg",)
    dtypes: tuple[str, ...] = ("float32",)
    layouts: tuple[str, ...] = ("samples",)
    devices: tuple[int, ...] = (1,)
    rehearse: tuple[str, ...] = ()
    scaling: str = "strong"
    iterations: int = 20
    repeats: int = 5
    seed: int = 0
    own: tuple[tuple[str, dict[str, Any]], ...] = ()
    outputs: tuple[int, ...] = (1,)

    def __post_init__(self) -> None:
        known = {
            "problems": tuple(PROBLEMS),
            "methods": tuple(METHODS),
            "layouts": tuple(LAYOUTS),
            "dtypes": DTYPES,
        }
        for name, value in vars(self).items():
            if value == () and name not in ("rehearse", "devices", "own"):
                raise BadExperiment(f"{name} must not be empty.")
            for one in value if isinstance(value, tuple) else [value]:
                if isinstance(one, int) and one < 1 and name != "seed":
                    raise BadExperiment(f"{name} must be at least 1, got {one}.")
                if name in known and one not in known[name]:
                    names = ", ".join(known[name])
                    raise BadExperiment(f"{name} must be of {names}, got {one!r}.")
        # A measurement takes up to 64 times the iterations, which int32 numbers.
        for name, least, power in (("seed", 0, 32), ("iterations", 1, 25)):
            if not least <= (value := getattr(self, name)) < 2**power:
                wanted = f"at least {least} and below 2**{power}"
                raise BadExperiment(f"{name} must be {wanted}, got {value}.")
        if self.scaling not in SCALINGS:
            raise BadExperiment(f"scaling must be strong or weak, got {self.scaling!r}.")
        for name in self.rehearse:
            try:
                mesh_named(name)
            except ValueError as error:
                raise BadExperiment(f"rehearse: {error}") from error

    @classmethod
    def from_toml(cls, path: pathlib.Path) -> Experiment:
        """The experiment that a TOML file describes; single values stand for lists of one.

        Raises:
          BadExperiment: if the file cannot be read, or names what does not exist.
        """
        try:
            given = tomllib.loads(path.read_text())
        except OSError as error:
            raise BadExperiment(f"{path}: {error.strerror}.") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise BadExperiment(f"{path} is not TOML: {error}") from error
        return cls.of(given, str(path))

    @classmethod
    def of(cls, given: dict[str, Any], source: str) -> Experiment:
        """The experiment with these fields; the others have their defaults."""
        tables = {name: table for name, table in given.items() if name in PROBLEMS}
        own = dict(given.get("own", ())) | tables
        fields = {name: value for name, value in given.items() if name not in ("own", *tables)}
        values = {name: _converted(name, value, source) for name, value in fields.items()}
        made = cls(**values, own=tuple(own.items()))
        for name, table in own.items():
            made._of_problem(name, table, source)
        return made

    def _of_problem(self, name: str, table: Any, source: str = "") -> Experiment:
        """The grid of a problem with sizes of its own."""
        if not isinstance(table, dict):
            raise BadExperiment(f"{source}: {name} must be a table, [{name}], got {table!r}.")
        other = sorted(set(table) - set(OF_A_PROBLEM))
        if other:
            raise BadExperiment(
                f"{source}: [{name}] may have {', '.join(OF_A_PROBLEM)}, got {other[0]!r}."
            )
        shared = self.given() | {"own": (), "problems": [name]}
        return Experiment.of(shared | table, f"{source}: [{name}]")

    def given(self) -> dict[str, Any]:
        """The fields that differ from their defaults."""
        return {name: value for name, value in vars(self).items() if value != DEFAULTS[name]}

    def points(self) -> list[ScalingPoint]:
        """Every point, rehearsals last."""
        own = dict(self.own)
        shared = tuple(name for name in self.problems if name not in own)
        points = dataclasses.replace(self, problems=shared)._grid() if shared else []
        for name in self.problems:
            points += self._of_problem(name, own[name])._grid() if name in own else []
        return list(dict.fromkeys(points))

    def _grid(self) -> list[ScalingPoint]:
        points: list[ScalingPoint] = []
        places = [(count, "") for count in self.devices]
        places += [(mesh.devices, mesh.name) for mesh in map(mesh_named, self.rehearse)]
        sizes = itertools.product(self.rows, self.features, self.outputs)
        grid = (self.problems, sizes, self.dtypes, self.methods, self.layouts, places)
        for name, size, dtype, method, layout, place in itertools.product(*grid):
            problem, (rows, features, outputs) = PROBLEMS[name], size
            if not problem.has_rows:
                points.append(ScalingPoint(name, 0, 0, "constant", dtype, "params", *place))
                continue
            if layout not in problem.layouts:
                raise BadExperiment(
                    f"{name} can lie over devices by {', '.join(problem.layouts)}, got {layout!r}."
                )
            if outputs > 1 and "outputs" not in problem.layouts:
                raise BadExperiment(f"{name} has one output, got {outputs}.")
            point = ScalingPoint(name, rows, features, method, dtype, layout, *place, outputs)
            if self.scaling == "weak":
                whole = point.devices * getattr(point, point.grows)
                point = dataclasses.replace(point, **{point.grows: whole})
            if problem.is_by_share and max(point.rows, features) > LARGEST_SIDE:
                raise BadExperiment(
                    f"{name} must have fewer than 2**31 rows and features, got {point.rows:,} x "
                    f"{features:,}."
                )
            points.append(point)
        return points


DEFAULTS: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(Experiment)}
"""The fields of an experiment with their defaults."""

OF_A_PROBLEM = [
    name
    for name, default in DEFAULTS.items()
    if isinstance(default, tuple) and name not in ("problems", "own")
]
"""The fields that the table of a problem may have: all lists but that of the problems."""


def _converted(name: str, value: Any, source: str) -> Any:
    """The value of a field; a single one stands for a list of one."""
    if name not in DEFAULTS:
        raise BadExperiment(f"{source}: {name!r} is none of {', '.join(DEFAULTS)}.")
    default = DEFAULTS[name]
    is_list = isinstance(default, tuple)
    kind = type(default if not is_list else default[0] if default else "")
    converted = []
    for one in value if is_list and isinstance(value, list | tuple) else [value]:
        is_whole = kind is int and isinstance(one, float) and one.is_integer()  # 1e6
        if type(one) is not kind and not is_whole:
            raise BadExperiment(f"{source}: {name} must be of type {kind.__name__}, got {one!r}.")
        converted.append(int(one) if is_whole else one)
    return tuple(converted) if is_list else converted[0]
