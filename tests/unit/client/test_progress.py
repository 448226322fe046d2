"""How events become bars."""

from __future__ import annotations

from egregore_dist.client.events import Event
from egregore_dist.client.progress import Count


def event(kind: str, block: str | None = None, ended: int = 0, failed: int = 0, **detail: object) -> Event:
    """An event of a run."""
    return Event(
        cursor="1-0",
        time=0.0,
        type=kind,
        block=block,
        branches=tuple(range(ended)),
        failed=tuple(range(failed)),
        worker=None,
        detail={name: str(value) for name, value in detail.items()},
    )


def bars(*events: Event) -> dict[str, tuple[str, int, int]]:
    """The bars after these events: label, branches, how many have ended."""
    count = Count()
    for each in events:
        count.add(each)
    return {key: (bar.label, bar.n, bar.done) for key, bar in count.bars.items()}


def test_an_outermost_block_has_a_bar() -> None:
    """A bar counts the branches that ended, well or not."""
    found = bars(
        event("block.opened", "0.0-1", name="pages", n=5),
        event("branches.ended", "0.0-1", ended=2),
        event("branches.ended", "0.0-1", ended=1, failed=1),
    )

    assert found == {"0.0-1": ("pages", 5, 4)}


def test_nested_blocks_share_a_bar() -> None:
    """All nested blocks are one bar, with their name where they have only one."""
    outer = event("block.opened", "0.0-1", name="pages", n=2)
    nested = [event("block.opened", f"0.0-1.{branch}-1,0", name="images", n=3) for branch in range(2)]
    ended = event("branches.ended", "0.0-1.1-1,0", ended=3)

    assert bars(outer, *nested, ended) == {"0.0-1": ("pages", 2, 0), "nested": ("images", 6, 3)}

    other = event("block.opened", "0.0-1.0-1,1", name="links", n=1)
    assert bars(outer, *nested, other)["nested"] == ("nested blocks", 7, 0)


def test_a_block_opened_twice_counts_once() -> None:
    """The same block again changes nothing."""
    opened = event("block.opened", "0.0-1", name="pages", n=2)

    assert bars(opened, opened) == {"0.0-1": ("pages", 2, 0)}


def test_a_bar_is_full_at_its_blocks_end() -> None:
    """What ended with its block has no events of its own."""
    found = bars(
        event("block.opened", "0.0-1", name="pages", n=3),
        event("branches.ended", "0.0-1", ended=1),
        event("block.ended", "0.0-1", state="error"),
    )

    assert found == {"0.0-1": ("pages", 3, 3)}


def test_a_branch_that_failed_with_its_nested_block_has_ended() -> None:
    """A nested block that fails is the end of the branch that it is in."""
    found = bars(
        event("block.opened", "0.0-1", name="pages", n=3),
        event("block.opened", "0.0-1.0-1,0", name="images", n=2),
        event("block.ended", "0.0-1.0-1,0", state="timeout"),
    )

    assert found["0.0-1"] == ("pages", 3, 1)


def test_events_of_blocks_that_are_not_known_are_left_out() -> None:
    """The branch that is the whole run has no bar."""
    assert bars(event("branches.ended", "0", ended=1), event("block.ended", "0", state="ok")) == {}


def test_many_blocks_one_after_the_other() -> None:
    """After eight bars the further blocks share one."""
    found = bars(*(event("block.opened", f"0.0-{number}", name="b", n=1) for number in range(10)))

    assert len(found) == 9
    assert found["nested"] == ("b", 2, 0)
