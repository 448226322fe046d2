"""What the tests of one session share, in however many processes they run: their seed, and what they have measured."""

from __future__ import annotations

import os
import secrets

#: Chooses every fault. Set for the processes that this one starts, and read before tests' own variables are taken away.
SEED = os.environ.setdefault("EGREGORE_TEST_SEED", str(secrets.randbelow(10**6)))
#: What tests have measured, for the summary.
MEASURED: list[str] = []
