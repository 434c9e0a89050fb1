"""The `gradscope` command."""

from gradscope.cli.app import main

__all__ = ["main"]
