"""`python -m tabagent`."""

from tabagent.cli import main

if __name__ == "__main__":
    main()
