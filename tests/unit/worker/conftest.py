"""What tests of a worker's parts leave as it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from egregore_dist.engine import leaving


@pytest.fixture(autouse=True)
def lanes_stay() -> Iterator[None]:
    """Lanes of this process are told to stay, before and after."""
    leaving.tell(False)
    yield
    leaving.tell(False)
