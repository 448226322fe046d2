"""The names of what workers can be asked for by Celery's remote control."""

from __future__ import annotations

DRAIN, RESUME, STOP, CONCURRENCY = "egregore_drain", "egregore_resume", "egregore_stop", "egregore_concurrency"

#: Why a worker takes no lanes now: somebody has said so, its memory is short, it was told to stop.
DRAINED, PRESSED, STOPPING = "drained", "memory pressure", "stopping"
