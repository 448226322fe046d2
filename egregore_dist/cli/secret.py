"""``egregore-dist secret``."""

from __future__ import annotations

import click

from egregore_dist.wire import strength


@click.command()
def secret() -> None:
    """Print a new secret of 256 random bits.

    Use it as EGREGORE_SECRET, or as the token of the monitor: EGREGORE_SECRET=$(egregore-dist secret)
    """
    print(strength.new_secret())
