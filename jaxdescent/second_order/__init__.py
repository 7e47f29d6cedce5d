"""The parts of certificates: stationarity, products with the Hessian, signs of its eigenvalues."""
