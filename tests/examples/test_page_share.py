from __future__ import annotations

from pathlib import Path
from typing import Any

from egregore_dist import LocalCluster, node, parallel
from tests.examples import room


def test_block_04_a_branch_that_is_long_holds_back_no_other(tmp_path: Path) -> None:
    """A branch leased together with a long one starts on the free lane, not after it."""

    def task(name: str, other: str) -> Any:
        return node(name)(lambda data: room.work(data, name, after=[other]))

    tiny = node("tiny")(lambda data: None)
    before, behind = ([tiny.alias(f"{side}{i}") for i in range(40)] for side in ("before", "behind"))
    pair = [task("left", "right"), task("right", "left")]

    with LocalCluster(workers=2):
        result = parallel(*before, *pair, *behind, max_concurrent=2, timeout=room.PATIENCE)({"room": str(tmp_path)})

    assert room.peak([result["left"], result["right"]]) == 2
