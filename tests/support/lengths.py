"""How thorough the tests are: `make test` samples what `make test-all` goes through."""

from __future__ import annotations

import os

#: Whether to run the long versions. Read before tests' own variables are removed.
LONG = bool(os.environ.get("EGREGORE_TEST_LONG"))
