"""How far a run is."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from egregore_dist.ledger import RunRecord
from egregore_dist.monitor import progress
from tests.support import glances
from tests.unit.monitor.test_escaping import PAGES, page

RUN = RunRecord(id="order-1", state="running", workflow="flow", created=1.0, started=1.0, ended=None)
OUTER = glances.block((0,), name="fetch", n=10, done=4, failed=1, opened=2000)


def test_branches_of_all_blocks_are_counted() -> None:
    """Those of the blocks that are open and of those that have ended, outer ones and nested ones."""
    inner = glances.block((0, 1), parent="0.0-0", branch=1, n=5, done=5, state="ok")

    found = progress.of(RUN, [OUTER, inner], 10.0)

    assert (found.n, found.done, found.failed) == (15, 9, 1)


def test_what_is_left_is_estimated_from_what_has_ended() -> None:
    """Four took eight seconds, so six take twelve; of a nested block nobody asks."""
    inner = glances.block((0, 1), name="inner", parent="0.0-0", branch=1, n=100, done=50, opened=3000)

    found = progress.of(RUN, [inner, OUTER], 10.0)

    assert (found.block, found.left) == ("fetch", 12.0)


@pytest.mark.parametrize(
    ("run", "block"),
    [
        (RUN, replace(OUTER, done=2)),
        (RUN, replace(OUTER, reopened=3000)),
        (RUN, replace(OUTER, state="ok")),
        (replace(RUN, state="paused"), OUTER),
        (replace(RUN, state="failed"), OUTER),
    ],
    ids=["too few have ended", "a retry has opened it again", "it has ended", "paused", "the run has ended"],
)
def test_what_is_left_is_not_always_known(run: RunRecord, block: glances.BlockGlance) -> None:
    """Then nothing is said of it."""
    assert progress.of(run, [block], 10.0).left is None
    assert progress.of(RUN, [], 10.0) == progress.Progress(n=0, done=0, failed=0)


@pytest.mark.parametrize(
    ("name", "counts"),
    [("runs.html", ["1"]), ("run.html", ["1", "1"]), ("blocks.html", ["1"]), ("block.html", ["1"])],
)
def test_pages_say_how_many_branches_have_failed(name: str, counts: list[str]) -> None:
    """Beside how many have ended: of each run, of the run that is shown, and of each of its blocks."""
    html = page(name)

    assert re.findall(r'<span class="number">\d/\d</span>\s*<span class="bad">(\d+) failed<', html) == counts


def test_the_page_of_a_run_says_how_long_its_block_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the name of the block; and nothing where that is not known."""
    view = PAGES["run.html"]["view"]

    monkeypatch.setattr(view, "progress", progress.of(RUN, [OUTER], 10.0))
    assert "<dt>Left of fetch</dt><dd>about 12.0 s, at its pace so far</dd>" in page("run.html")
    monkeypatch.setattr(view, "progress", progress.of(RUN, [replace(OUTER, done=2)], 10.0))
    assert "Left of" not in page("run.html")
