"""Limited-memory BFGS: the method, and two ways to keep its inverse Hessian."""

from jaxdescent.methods.lbfgs.method import LBFGS as LBFGS
