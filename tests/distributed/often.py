"""The command line, whose fits are kept after each chunk, so that one sees when they descend."""

from jaxdescent.cli import main
from jaxdescent.fit import checkpoint

if __name__ == "__main__":
    checkpoint.EVERY = 0.0
    main()
