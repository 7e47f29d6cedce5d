"""What certificates are computed from: stationarity, products with the Hessian, and its signs."""
