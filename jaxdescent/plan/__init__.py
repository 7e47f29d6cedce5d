"""Foresight: what each method would cost here, and which one to take, before anything is allocated.

``structure`` reduces a problem to sizes, ``condition`` assumes how ill-conditioned it is,
``cost_model`` prices each method, ``candidates`` has the table of methods, ``hedging`` makes one of
two, ``choice`` picks one or says why not, ``plan`` is what comes of it, and ``default`` what
``minimize`` decides by. The front door, ``jd.plan``, is :mod:`jaxdescent.foresight`.
"""

from jaxdescent.plan.candidates import Candidate as Candidate
from jaxdescent.plan.default import default_plan as default_plan
from jaxdescent.plan.hedging import ALLOWED_ITERATIONS as ALLOWED_ITERATIONS
from jaxdescent.plan.plan import Plan as Plan
from jaxdescent.plan.plan import plan_of as plan_of
