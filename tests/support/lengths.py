"""How thorough the tests are: `make test` samples what `make test-all` goes through."""

from __future__ import annotations

import os

_LENGTH = os.environ.get("EGREGORE_TEST_LONG")

#: Whether to run the long versions. Read before tests' own variables are removed.
LONG = bool(_LENGTH)
#: Whether they may take hours together: ``EGREGORE_TEST_LONG=hours``.
HOURS = _LENGTH == "hours"
