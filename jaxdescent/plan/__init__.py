"""Predictions of what each method costs for a problem, and the choice of a method.

Nothing is allocated for a plan. ``structure`` reduces a problem to sizes, ``condition`` assumes how
ill-conditioned it is, ``cost_model`` prices each method, ``candidates`` has the table of methods,
``hedging`` combines two of them, ``choice`` picks one or says why none fits, ``plan`` holds the
result, and ``default`` makes the plan by which ``minimize`` chooses. The public entry point,
``jd.plan``, is in :mod:`jaxdescent.foresight`.
"""

from jaxdescent.plan.candidates import Candidate as Candidate
from jaxdescent.plan.default import default_plan as default_plan
from jaxdescent.plan.hedging import ALLOWED_ITERATIONS as ALLOWED_ITERATIONS
from jaxdescent.plan.plan import Plan as Plan
from jaxdescent.plan.plan import plan_of as plan_of
