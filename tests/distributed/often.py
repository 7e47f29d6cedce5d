"""The command line, whose fits are kept after each chunk, so that one sees when they descend."""

from jaxdescent.cli import main
from jaxdescent.fit import keeping

if __name__ == "__main__":
    keeping.EVERY = 0.0
    main()
