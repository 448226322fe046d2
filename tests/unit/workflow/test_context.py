"""Context: what it says, and the key it gives."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from egregore_dist.workflow import Context

CONTEXT = Context(run="r", workflow="w", block="b", branch=1, node="n", attempt=1)


def test_frozen() -> None:
    """A context never changes."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        CONTEXT.attempt = 2  # type: ignore[misc]


def test_the_key_is_the_same_for_every_attempt() -> None:
    """The idempotency key does not depend on the attempt, nor on the process."""
    program = f"from egregore_dist.workflow import Context; print(({CONTEXT!r}).idempotency_key)"
    elsewhere = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert CONTEXT.idempotency_key == dataclasses.replace(CONTEXT, attempt=2).idempotency_key
    assert CONTEXT.idempotency_key == elsewhere.stdout.strip()


@pytest.mark.parametrize(
    "change",
    [
        {"run": "s"},
        {"block": None},
        {"block_id": "1"},
        {"branch": "1"},
        {"branch": None},
        {"branch": 2},
        {"node": "m"},
        {"path": (0,)},
    ],
)
def test_the_key_differs_between_executions(change: dict[str, object]) -> None:
    """Every other run, block, branch, node or place has another key."""
    assert CONTEXT.idempotency_key != dataclasses.replace(CONTEXT, **change).idempotency_key  # type: ignore[arg-type]
