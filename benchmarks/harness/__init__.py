"""How a benchmark is run: cases, contenders, processes of their own, and what is kept of them."""
