"""``python -m jaxdescent`` is the command ``jaxdescent``."""

from jaxdescent.cli import main

if __name__ == "__main__":
    main()
