"""The picture of a timeline: a row for each block, and for the branches of it that tell most."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from egregore_dist.client import amounts, parts, svg
from egregore_dist.client.parts import Part
from egregore_dist.client.svg import Svg
from egregore_dist.client.timeline import Attempt, BlockTimes, Timeline
from egregore_dist.ledger.keys import ROOT

#: Rows in the picture, blocks in it, and branches of a block: all of a small one, else those that took longest.
ROWS_SHOWN = 150
BLOCKS_SHOWN = 40
BRANCHES_SHOWN = 12
ALL_SHOWN = 20

_ROW, _LEFT, _WIDTH, _RIGHT, _TOP = 20.0, 210.0, 760.0, 80.0, 28.0
_LETTERS, _LETTERS_WITHOUT_BARS = 28, 90
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
# Seconds between two marks of the axis, from a second to a day; shorter and longer ones are 1, 2 or 5 and zeros.
_STEPS = (
    *(1, 2, 5, 10, 15, 30),
    *(minutes * _MINUTE for minutes in (1, 2, 5, 10, 15, 30)),
    *(hours * _HOUR for hours in (1, 2, 3, 6, 12)),
)
_FACTORS = (1, 2, 5)

# What was waited for is thinner than what ran, and what ended badly has a mark at its end.
_THINNER = {"wait": 4.0, "retry": 4.0}
_MARKED = ("error", "lost", "stopped")


@dataclass(frozen=True, slots=True)
class _Row:
    """One row. A bar is start, end, kind and what to say of it; ``critical``: the end waited for it."""

    label: str
    depth: int
    bars: Sequence[tuple[float, float, str, str]]
    critical: bool
    kind: str = "branch"


def draw(
    timeline: Timeline,
    name: str,
    now: float,
    names: Callable[[str, int], str],
    clean: Callable[[str], str] = svg.printable,
) -> Svg | None:
    """The picture, or None where nothing has happened yet.

    Args:
        name: of the workflow.
        now: the server's time, in seconds.
        names: the name of a branch, by block and position.
        clean: what of a name may be shown.
    """
    begin = timeline.submitted or timeline.started or min((b.opened for b in timeline.blocks.values()), default=None)
    if begin is None:
        return None
    end = max(timeline.ended or now, begin + 0.001)
    rows: list[_Row] = []
    more = False
    for row in _rows(timeline, name, begin, end, names, clean):
        if len(rows) == ROWS_SHOWN:
            more = True
            break
        rows.append(row)
    height = _TOP + _ROW * (len(rows) + more) + 8
    parts = list(_axis(begin, end, height))
    for index, row in enumerate(rows):
        parts.append(_draw(row, _TOP + _ROW * index, begin, end))
    if more:
        parts.append(svg.tag("text", "… and more", x=8.0, y=height - 10, class_="more"))
    label = f"When the blocks and branches of {clean(name)} waited and ran"
    return svg.picture(_LEFT + _WIDTH + _RIGHT, height, label, *parts, class_="gantt")


def _rows(
    timeline: Timeline,
    name: str,
    begin: float,
    end: float,
    names: Callable[[str, int], str],
    clean: Callable[[str], str],
) -> Iterator[_Row]:
    critical = timeline.critical(end)
    started = timeline.started
    bars = [(begin, started or end, "wait", "waited for a worker")]
    if started is not None:
        kind = {"": "running", "succeeded": "ok"}.get(timeline.state, "error")
        bars.append((started, end, kind, timeline.state or "runs"))
    yield _Row(clean(name), 0, bars, False, "run")
    own = timeline.attempts.get((ROOT, 0), [])
    its = [part for attempt in own if attempt.parks for part in parts.of(attempt) or ()]
    if any(part.seconds(end) >= parts.NEGLIGIBLE for part in its):
        yield _Row(clean(name), 1, _bars(own, None, timeline, end, clean), True)
    ordered = sorted(timeline.blocks.values(), key=lambda block: block.opened)
    by_block: dict[str, list[tuple[int, list[Attempt]]]] = {block.id: [] for block in ordered[:BLOCKS_SHOWN]}
    for (id, branch), attempts in timeline.attempts.items():
        if id in by_block:
            by_block[id].append((branch, attempts))
    for block in ordered[:BLOCKS_SHOWN]:
        depth = block.id.count(".")
        kind = {"open": "running", "ok": "ok"}.get(block.state, "error")
        over = block.ended or end
        found = by_block[block.id]
        yield _Row(clean(block.name), depth, [(block.opened, over, kind, block.state)], block.id in critical, "block")
        yield from _branches(block, found, depth + 1, timeline, end, critical, names, clean)
        if block.partial:
            known = sum(all(attempt.cut is None for attempt in attempts) for _, attempts in found)
            yield _Row(f"… the times of {known} of {block.n} branches are known", depth + 1, [], False, "more")
    if len(ordered) > BLOCKS_SHOWN:
        yield _Row(f"… {len(ordered) - BLOCKS_SHOWN} more blocks", 0, [], False, "more")


def _branches(
    block: BlockTimes,
    found: list[tuple[int, list[Attempt]]],
    depth: int,
    timeline: Timeline,
    end: float,
    critical: set[str | tuple[str, int]],
    names: Callable[[str, int], str],
    clean: Callable[[str], str],
) -> Iterator[_Row]:
    # The one that the end waited for belongs in, however short it was.
    waited_for = {place[1] for place in critical if isinstance(place, tuple) and place[0] == block.id}

    def tells(entry: tuple[int, list[Attempt]]) -> tuple[bool, float]:
        branch, attempts = entry
        took = 0.0
        for attempt in attempts:
            took += _over(attempt, end) - attempt.start
        return branch in waited_for, took

    shown = found if len(found) <= ALL_SHOWN else heapq.nlargest(BRANCHES_SHOWN, found, key=tells)
    for branch, attempts in sorted(shown, key=lambda entry: entry[0]):
        bars = _bars(attempts, block, timeline, end, clean)
        yield _Row(clean(names(block.id, branch)), depth, bars, (block.id, branch) in critical)
    left = block.n - len(shown)
    if left > 0 and len(found) > len(shown):
        yield _Row(f"… and {left} others", depth, [], False, "more")


def _bars(
    attempts: Sequence[Attempt],
    block: BlockTimes | None,
    timeline: Timeline,
    end: float,
    clean: Callable[[str], str],
) -> list[tuple[float, float, str, str]]:
    """The bars of a branch; ``block`` is None for the run's own, whose wait for a slot is that of the run."""
    bars: list[tuple[float, float, str, str]] = []
    opened = attempts[0].start if block is None else block.opened
    free, number = opened, 0
    for attempt in attempts:
        over = _over(attempt, end)
        # It may not have waited all the time, where not all its attempts are known.
        is_next = block is None or not block.partial or (attempt.number == number + 1 and not block.again)
        if attempt.start > free and attempt.cut is None and is_next:
            again = free > opened
            what = "waited to be tried again" if again else "waited for a slot"
            bars.append((free, attempt.start, "retry" if again else "wait", what))
        its = parts.of(attempt)
        if attempt.cut is not None:
            what = f"on {attempt.worker}; when it began or ended is not known"
            bars.append((attempt.start, over, "cut", clean(what)))
        elif its is None:
            bars.append((attempt.start, over, _kind(attempt.how), clean(f"{attempt.how} on {attempt.worker}")))
        else:
            ran = [part for part in its if part.seconds(end) > 0 or not attempt.parks]
            bars += sorted([*(_of_part(part, end, clean) for part in ran), *_waits(attempt, timeline, end, clean)])
            if attempt.parks and attempt.parks[-1].until is None and attempt.end is not None:
                bars.append((over, over, _kind(attempt.how), clean(f"{attempt.how} while it waited")))
        free, number = over, attempt.number
    return bars


def _of_part(part: Part, end: float, clean: Callable[[str], str]) -> tuple[float, float, str, str]:
    what = f"{part.how} on {part.worker}"
    if not part.told:
        what = "goes on, or waits for a slot" if part.end is None else f"{part.how}; it went on, or waited for a slot"
    return part.start, end if part.end is None else part.end, _kind(part.how), clean(what)


def _waits(
    attempt: Attempt, timeline: Timeline, end: float, clean: Callable[[str], str]
) -> Iterator[tuple[float, float, str, str]]:
    for park in attempt.parks:
        known = timeline.blocks.get(park.block)
        until = _over(attempt, end) if park.until is None else park.until
        yield park.since, until, "wait", clean(f"waited for {known.name if known else 'a block'}")


def _kind(how: str) -> str:
    return how if how in ("ok", "running", "lost", "stopped") else "error"


def _over(attempt: Attempt, end: float) -> float:
    """Until when an attempt is drawn."""
    return attempt.end or (end if attempt.cut is None else attempt.cut)


def _draw(row: _Row, y: float, begin: float, end: float) -> Svg:
    scale = _WIDTH / (end - begin)
    indent = 8 + 10 * min(row.depth, 5)
    letters = _LETTERS if row.bars else _LETTERS_WITHOUT_BARS
    parts = [
        svg.tag("title", row.label),
        svg.tag("text", svg.cut(row.label, letters - min(row.depth, 5)), x=float(indent), y=y + 14, class_="label"),
    ]
    inset = 6.0 if row.kind == "block" else 4.0
    for start, over, kind, what in row.bars:
        x = _LEFT + max(0.0, start - begin) * scale
        width = max(1.5, (min(over, end) - max(start, begin)) * scale)
        took = "" if kind == "cut" else f", {amounts.duration(over - start)}"
        title = svg.tag("title", f"{row.label}: {what}{took}")
        top = inset + _THINNER.get(kind, 0.0)
        high = _ROW - 2 * top
        parts.append(svg.tag("rect", title, x=x, y=y + top, width=width, height=high, rx=2, class_=f"bar bar-{kind}"))
        if kind in _MARKED:
            parts.append(svg.tag("line", x1=x + width, y1=y + 1, x2=x + width, y2=y + _ROW - 1, class_="end"))
    if row.bars:
        last = row.bars[-1]
        if row.kind != "run":
            took = "?" if last[2] == "cut" else amounts.duration(last[1] - last[0])
            x = min(_LEFT + (min(last[1], end) - begin) * scale + 5, _LEFT + _WIDTH + 4)
            star = " ★" if row.critical else ""
            parts.append(svg.tag("text", f"{took}{star}", x=x, y=y + 14, class_="took"))
    return svg.tag("g", *parts, class_=f"row row-{row.kind}{' critical' if row.critical else ''}")


def _axis(begin: float, end: float, height: float) -> Iterator[Svg]:
    step = _step((end - begin) / 5)
    scale = _WIDTH / (end - begin)
    for number in range(int((end - begin) / step + 1e-6) + 1):
        mark = round(number * step, 3)
        x = _LEFT + mark * scale
        yield svg.tag("line", x1=x, y1=_TOP - 6, x2=x, y2=height - 8, class_="grid")
        yield svg.tag("text", _told(mark), x=x, y=_TOP - 12, class_="tick", text_anchor="middle")


def _step(about: float) -> float:
    """The seconds between two marks: round as times are, and not less than ``about``."""
    for step in _STEPS if about > _STEPS[0] / 2 else ():
        if step >= about:
            return float(step)
    unit = 10.0**-3 if about < 1 else float(_DAY)
    while True:
        for factor in _FACTORS:
            if unit * factor >= about:
                return unit * factor
        unit *= 10


def _told(mark: float) -> str:
    """Where a mark of the axis is, exactly."""
    if 0 < mark < 1:
        return f"{mark * 1000:g} ms"
    minutes, seconds = divmod(mark, _MINUTE)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (round(seconds, 3), "s")]
    return " ".join(f"{number:g} {unit}" for number, unit in parts if number) or "0"
