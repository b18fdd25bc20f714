"""How every benchmark ends: a mistake of its user is one sentence and an exit code, as on limbeck's own command line."""

import sys
from collections.abc import Callable
from pathlib import Path

from limbeck.core.errors import LimbeckError


def ended(main: Callable[[], None]) -> int:
    """Run a benchmark, and give its exit code: 0 done, 1 it failed, 2 the user's words are off."""
    name = Path(sys.argv[0]).name
    try:
        main()
    except LimbeckError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return error.exit_code
    except FileNotFoundError as error:
        print(f"{name}: there is no {error.filename}.", file=sys.stderr)
        return 2
    return 0
