"""`python -m limbeck.cli`."""

import sys

from limbeck.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
