"""The command line, one file per command. Whatever is heavy is imported inside a command, so that `limbeck --help` is instant."""

from limbeck.cli.app import main

__all__ = ["main"]
