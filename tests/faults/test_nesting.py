"""F27: blocks in blocks, where there is one slot for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from egregore_dist import Sequence, parallel
from tests.support.trial import Trial
from tests.support.work import join, moment, nap, quick

DEPTH = 5


def nest(depth: int, limit: int | None) -> Any:
    """A block with a block with a block ..."""
    if depth == 0:
        return quick.alias("bottom")
    inner = Sequence(quick.alias("before"), moment, nest(depth - 1, limit), join).alias("inner")
    return parallel(inner, nap, nap.alias("second"), max_concurrent=limit, name=f"level{depth}")


@pytest.mark.parametrize("limit", [None, 1])
def test_nested_blocks_need_one_slot(trial_of: Callable[..., Trial], limit: int | None) -> None:
    """No branch waits in a slot for another: five levels end on one worker of one lane, many runs at a time."""
    trial = trial_of(workers=1, concurrency=1)
    runs = [trial.submit(nest(DEPTH, limit), 0.01) for _ in range(3)]

    for run in runs:
        found = trial.result(run)
        for _ in range(DEPTH):
            assert set(found) == {"inner", "nap", "second"}
            found = found["inner"]


def test_a_map_of_maps_needs_one_slot(trial_of: Callable[..., Trial]) -> None:
    """Parked branches of a wide block, each with a block of its own under a limit, all come to their end."""
    trial = trial_of(workers=1, concurrency=1)
    flow = nap.map(max_concurrent=2).map(max_concurrent=3).map(max_concurrent=2)

    found = trial.run(flow, [[[0.001] * 3] * 4] * 5)
    assert [[len(inner) for inner in outer] for outer in found] == [[3] * 4] * 5
