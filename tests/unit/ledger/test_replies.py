"""Commands' arguments and replies."""

from __future__ import annotations

import pytest

from egregore_dist.ledger import replies
from egregore_dist.ledger.connection import CONNECTION
from egregore_dist.ledger.keys import Keys


@pytest.mark.parametrize(("asked", "waits"), [(0, 0.01), (1.5, 1.5), (60, 3.0)])
def test_no_wait_is_longer_than_a_connection_may_be_silent(asked: float, waits: float) -> None:
    """A server that has nothing to say yet would be taken for one that is gone."""
    assert replies.wait_command(Keys("egd"), "r", asked)[-1] == waits
    assert replies.block_for(asked) == max(1, waits * 1000 if asked else 1)
    assert waits < CONNECTION["socket_timeout"]
