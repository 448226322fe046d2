"""How many interleavings the state machines of the ledger try; ``HYPOTHESIS_PROFILE=thorough`` for many more."""

from __future__ import annotations

import os

import hypothesis
from hypothesis import settings

from tests.support.lengths import LONG

PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "quick")
#: Seconds for one of these tests: a failure takes long to make small.
TIMEOUT = 600 if PROFILE == "quick" else 7200

# On a second server the scripts are the same: there they have to run, and are not searched for mistakes again.
_ON_A_SECOND = 10

settings.register_profile("quick", deadline=None, max_examples=300 if LONG else 40, stateful_step_count=50)
settings.register_profile("thorough", deadline=None, max_examples=3000, stateful_step_count=80)


def chosen(*, is_first: bool) -> hypothesis.settings:
    """The settings of a state machine.

    Args:
        is_first: whether the server is the embedded one, which is always there.
    """
    found = settings.get_profile(PROFILE)
    return found if is_first or PROFILE != "quick" else settings(found, max_examples=_ON_A_SECOND)
