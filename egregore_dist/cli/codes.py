"""Exit codes of the command line."""

from __future__ import annotations

#: A run failed or was cancelled, or ``doctor`` found a problem.
FAILED = 1
#: The command, the settings, the workflow or its input is wrong.
USAGE = 2
#: The broker or the ledger cannot be reached.
UNREACHABLE = 3
#: There is no such run, limit or worker.
NOT_FOUND = 4
#: The run had not ended when ``--timeout`` was over.
TIMEOUT = 5
#: A mistake of this package.
INTERNAL = 70
#: Ctrl-C.
INTERRUPTED = 130
#: SIGTERM.
TERMINATED = 143
