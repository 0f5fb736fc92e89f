"""`python -m kpusim`: the command line."""

from kpusim.cli import main

if __name__ == "__main__":
    main()
