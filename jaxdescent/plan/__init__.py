"""Foresight: what each method would cost here, and which one to take, before anything is allocated.

``structure`` reduces a problem to sizes, ``condition`` assumes how ill-conditioned it is,
``cost_model`` prices each method, ``candidates`` has the table of methods, ``hedging`` makes one of
two, ``choice`` picks one or says why not, ``plan`` is the front door, and ``default`` what
``minimize`` decides by.
"""

from jaxdescent.plan.candidates import Candidate as Candidate
from jaxdescent.plan.default import default_plan as default_plan
from jaxdescent.plan.hedging import ALLOWED_ITERATIONS as ALLOWED_ITERATIONS
from jaxdescent.plan.plan import Plan as Plan
from jaxdescent.plan.plan import plan as plan
from jaxdescent.plan.plan import plan_of as plan_of
