"""What a certificate rests on: the gradient's scale, the Hessian's products and their signs."""
