"""Predictions of what each method costs for a problem, and the choice of a method.

Nothing is allocated for a plan. ``structure`` reduces a problem to sizes, ``work`` has amounts of
work and their seconds on a machine, ``iterations`` how many a condition number takes, ``descents``
and ``solves`` the bytes and the work of each method, ``candidates`` the table of methods,
``choice`` picks one or two of them or says why none fits, ``planning`` does all of this in turn,
and ``plan`` holds and prints the result. The public entry point is :mod:`jaxdescent.plan`.
"""

from jaxdescent.cost.candidates import Candidate as Candidate
from jaxdescent.cost.plan import Plan as Plan
from jaxdescent.cost.planning import default_plan as default_plan
from jaxdescent.cost.planning import plan_of as plan_of
from jaxdescent.cost.work import ALLOWED_ITERATIONS as ALLOWED_ITERATIONS
