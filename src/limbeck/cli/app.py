"""The commands put together, and what a failure looks like: one sentence on stderr, never a traceback of a user's mistake."""

import errno
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, cast

import typer

from limbeck import __version__
from limbeck.cli import cache, doctor, init, listing, report, run, score
from limbeck.core.errors import LimbeckError, nearest

UsageMistake = cast("type[Exception]", typer.BadParameter.__mro__[1])
"""What typer raises for words on the command line that it can't take; its home differs between versions of typer."""

COMMANDS: Mapping[str, Callable[..., None]] = {
    "run": run.run,
    "cache": cache.cache,
    "list": listing.list_rows,
    "report": report.report,
    "score": score.score,
    "doctor": doctor.doctor,
    "init": init.init,
}

INTERRUPTED = 130
"""What typer makes of Ctrl-C; older versions raise Abort."""

STOPPED = "stopped; a run goes on by `limbeck run --resume FOLDER`, a scoring by the same words and --resume."

app = typer.Typer(add_completion=True, rich_markup_mode=None, pretty_exceptions_enable=False)
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)


@app.callback(invoke_without_command=True)
def limbeck(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    """Distil a large model into a small one, weigh every training sample by its influence, and say whether it worked.

    \b
      limbeck run digits          the whole thing on built-in data, a few minutes
      limbeck list                all that a recipe can name
      limbeck doctor              what this machine has
      limbeck init FOLDER         a small project of your own
    """  # noqa: D301  \b keeps the lines apart
    if version:
        typer.echo(f"limbeck {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


MEMORY_FULL = "the memory is full; set a smaller batch_size or smaller models."


def main(args: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code: 0 done, 1 it failed, 2 the user's words are off.

    Raises:
        RuntimeError: A mistake of this program, never of its user.
    """
    command = typer.main.get_command(app)
    with warnings.catch_warnings():
        warnings.showwarning = _warn
        try:
            code = command.main(args=list(sys.argv[1:] if args is None else args), prog_name="limbeck", standalone_mode=False)
        except LimbeckError as error:
            return say(str(error), error.exit_code)
        except UsageMistake as mistake:
            return say(_in_words(mistake), 2)
        except (KeyboardInterrupt, typer.Abort):
            return say(STOPPED, 1)
        except BrokenPipeError:  # the reader of our output, such as `head`, has gone
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except OSError as error:
            return say(_of_the_system(error), 1)
        except MemoryError:
            return say(MEMORY_FULL, 1)
        except RuntimeError as error:
            if _out_of_memory(error):
                return say(MEMORY_FULL, 1)
            raise
    if code == INTERRUPTED:
        return say(STOPPED, 1)
    return code if isinstance(code, int) else 0


def say(message: str, code: int) -> int:
    """One line on stderr, and the exit code."""
    print("limbeck: " + " ".join(message.split()), file=sys.stderr)  # noqa: T201
    return code


def _out_of_memory(error: RuntimeError) -> bool:
    """Whether torch says that it could not have more memory: on the CPU it has no error of its own for that."""
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)


def _in_words(mistake: Exception) -> str:
    message = str(mistake.format_message()) if hasattr(mistake, "format_message") else str(mistake)
    if message.startswith("No such command '"):
        word = message.split("'")[1]
        return f"there is no command '{word}'{nearest(word, COMMANDS) or '; `limbeck --help` shows all.'}"
    return f"{message.rstrip('.')}; see `limbeck --help`."


def _of_the_system(error: OSError) -> str:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return "no space left on the disk; free some and go on with `limbeck run --resume FOLDER`."
    place = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror or type(error).__name__}{place}."


def _warn(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: object = None, line: str | None = None
) -> None:
    say(f"note: {message}", 0)
