"""Waiting for the end of a run."""

from __future__ import annotations

import pytest

from egregore_dist.ledger import replies
from egregore_dist.ledger.keys import Keys


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 1e-9, 0.001])
def test_no_wait_is_so_short_that_it_is_endless(seconds: float) -> None:
    """Redis 6.2 cuts a timeout to whole milliseconds, and waits for ever where that is none."""
    assert replies.wait_command(Keys("egd"), "run", seconds)[-1] >= 0.01
