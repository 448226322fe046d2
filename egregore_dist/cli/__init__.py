"""The command line."""

from egregore_dist.cli.main import main

__all__ = ["main"]
