"""The picture of a workflow: the series-parallel tree of its spec, each step in the colour of how far it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from egregore_dist.monitor import svg
from egregore_dist.monitor.standing import Facts, Standing, stand
from egregore_dist.workflow import spec
from egregore_dist.workflow.spec import Path

#: Branches of a parallel that are drawn one by one.
BRANCHES_SHOWN = 12
#: Steps in a picture; what is beyond is told as a number.
STEPS_SHOWN = 300

_SIGNS: Mapping[Standing, str] = {
    "waiting": "○",
    "running": "▶",
    "paused": "‖",
    "ok": "✓",
    "failed": "✕",
    "timeout": "⏱",
    "cancelled": "■",
    "skipped": "·",
    "unknown": "?",
}
_WORDS: Mapping[Standing, str] = {
    "waiting": "not begun",
    "running": "running",
    "paused": "paused",
    "ok": "done",
    "failed": "failed",
    "timeout": "timed out",
    "cancelled": "stopped",
    "skipped": "not taken",
    "unknown": "begun or not: only a block leaves a trace",
}

_HEIGHT, _GAP, _BETWEEN, _MARGIN, _HEAD, _FORK = 30.0, 30.0, 10.0, 12.0, 26.0, 16.0
_LABEL = 26


@dataclass(frozen=True, slots=True)
class _Shape:
    """Something to draw: its size, the height where lines meet it, and how it is drawn at a place."""

    width: float
    height: float
    middle: float
    draw: Callable[[float, float], list[Markup]]


def draw(workflow: spec.WorkflowSpec, facts: Facts, link: Callable[[Path], str]) -> Markup:
    """The picture of a run's workflow.

    Args:
        facts: what is known of the run.
        link: the address of the blocks at a path.
    """
    artist = _Artist(facts, stand(workflow.root, facts), link)
    shape = artist.shape(workflow.root, ())
    inside = shape.draw(_MARGIN, _MARGIN)
    return svg.picture(
        shape.width + 2 * _MARGIN,
        shape.height + 2 * _MARGIN,
        f"The steps of workflow {workflow.name}, and how far they are",
        *inside,
        class_="tree",
    )


class _Artist:
    def __init__(self, facts: Facts, standings: Mapping[Path, Standing], link: Callable[[Path], str]) -> None:
        self._facts = facts
        self._standings = standings
        self._link = link
        self._left = STEPS_SHOWN

    def shape(self, step: spec.StepSpec, path: Path) -> _Shape:
        """A step as it will be drawn."""
        self._left -= 1
        match step:
            case spec.NodeSpec():
                return self._box(step.name, path)
            case spec.SequenceSpec():
                return self._row(step, path)
            case spec.ParallelSpec():
                return self._parallel(step, path)
            case spec.MapSpec():
                body = self.shape(step.body, (*path, 0))
                return self._frame(f"{step.name} · one branch per item", path, [(body, "")], 0, step)
            case spec.DecisionSpec():
                return self._decision(step, path)

    def _box(self, label: str, path: Path, *, kind: str = "node") -> _Shape:
        state = self._standings.get(path, "unknown")
        shown = svg.cut(label, _LABEL)
        width = 34 + svg.LETTER * len(shown)

        def at(x: float, y: float) -> list[Markup]:
            inside = [
                svg.tag("title", f"{label}: {_WORDS[state]}"),
                svg.tag("rect", x=x, y=y, width=width, height=_HEIGHT, rx=15 if kind == "decision" else 5),
                svg.tag("text", _SIGNS[state], x=x + 10, y=y + 20, class_="sign"),
                svg.tag("text", shown, x=x + 25, y=y + 20),
            ]
            return [svg.tag("g", *inside, class_=f"step {kind} is-{state}")]

        return _Shape(width, _HEIGHT, _HEIGHT / 2, at)

    def _row(self, step: spec.SequenceSpec, path: Path) -> _Shape:
        shapes = []
        for position, inner in enumerate(step.steps):
            if self._left <= 0:
                shapes.append(_more(len(step.steps) - position, "step"))
                break
            shapes.append(self.shape(inner, (*path, position)))
        above = max(shape.middle for shape in shapes)
        below = max(shape.height - shape.middle for shape in shapes)
        width = sum(shape.width for shape in shapes) + _GAP * (len(shapes) - 1)

        def at(x: float, y: float) -> list[Markup]:
            parts = []
            for index, shape in enumerate(shapes):
                if index:
                    parts.append(_arrow(x, y + above, x + _GAP))
                    x += _GAP
                parts += shape.draw(x, y + above - shape.middle)
                x += shape.width
            return parts

        return _Shape(width, above + below, above, at)

    def _parallel(self, step: spec.ParallelSpec, path: Path) -> _Shape:
        shapes: list[tuple[_Shape, str]] = []
        for position, branch in enumerate(step.branches[:BRANCHES_SHOWN]):
            if self._left <= 0:
                break
            key = step.keys[position]
            is_same = isinstance(branch, spec.NodeSpec) and branch.name == key
            shapes.append((self.shape(branch, (*path, position)), "" if is_same else key))
        return self._frame(step.name, path, shapes, len(step.branches) - len(shapes), step)

    def _decision(self, step: spec.DecisionSpec, path: Path) -> _Shape:
        asks = self._box(f"{step.name}?", path, kind="decision")
        shapes: list[tuple[_Shape, str]] = []
        for position, choice in enumerate(step.steps[:BRANCHES_SHOWN]):
            if self._left <= 0:
                break
            shapes.append((self.shape(choice, (*path, position)), step.keys[position]))
        choices = _stack(shapes, len(step.steps) - len(shapes), "choice")
        above = max(asks.middle, choices.middle)
        below = max(asks.height - asks.middle, choices.height - choices.middle)

        def at(x: float, y: float) -> list[Markup]:
            return [
                *asks.draw(x, y + above - asks.middle),
                *choices.draw(x + asks.width, y + above - choices.middle),
            ]

        return _Shape(asks.width + choices.width, above + below, above, at)

    def _frame(
        self, name: str, path: Path, shapes: Sequence[tuple[_Shape, str]], more: int, step: spec.BlockSpec
    ) -> _Shape:
        state = self._standings.get(path, "unknown")
        inner = _stack(shapes, more, "branch")
        told = self._told(path, step)
        shown = svg.cut(name, 40)
        width = max(inner.width + 2 * _MARGIN, svg.LETTER * (len(shown) + len(told) + 2) + 48)
        height = inner.height + _HEAD + _MARGIN
        has_blocks = path in self._facts.counts

        def at(x: float, y: float) -> list[Markup]:
            head = [
                svg.tag("title", f"{name}: {_WORDS[state]} {told}"),
                svg.tag("rect", x=x, y=y, width=width, height=height, rx=8),
                svg.tag("text", _SIGNS[state], x=x + 10, y=y + 18, class_="sign"),
                svg.tag("text", shown, x=x + 26, y=y + 18, class_="name"),
                svg.tag("text", told, x=x + width - 10, y=y + 18, class_="told", text_anchor="end"),
            ]
            group = svg.tag("g", *head, class_=f"block is-{state}")
            if has_blocks:
                group = svg.tag("a", group, href=self._link(path))
            left, level = x + (width - inner.width) / 2, y + _HEAD + inner.middle
            lines = [_line(x, level, left, level), _line(left + inner.width, level, x + width, level)]
            return [group, *lines, *inner.draw(left, y + _HEAD)]

        return _Shape(width, height, _HEAD + inner.middle, at)

    def _told(self, path: Path, step: spec.BlockSpec) -> str:
        """How many branches have ended, and what limits the block."""
        said = []
        blocks = self._facts.blocks.get(path, ())
        if blocks:
            done, n = sum(block.done for block in blocks), sum(block.n for block in blocks)
            failed = sum(block.failed for block in blocks)
            read = "" if len(blocks) == self._facts.counts.get(path, 0) else " of those looked at"
            said.append(f"{done}/{n}{read}")
            if failed:
                said.append(f"{failed} failed")
            if len(blocks) > 1 or read:
                said.append(f"{self._facts.counts[path]} blocks")
        elif isinstance(step, spec.ParallelSpec):
            said.append(f"{len(step.branches)} branches")
        if step.max_concurrent:
            said.append(f"{step.max_concurrent} at a time")
        if step.timeout:
            said.append(f"within {step.timeout:g} s")
        return " · ".join(said)


def _stack(shapes: Sequence[tuple[_Shape, str]], more: int, what: str) -> _Shape:
    """Shapes under each other, between a fork and a join; with the name of each on its line."""
    all_shapes = [*shapes, *([(_more(more, what), "")] if more > 0 else [])]
    labels = max((svg.LETTER * len(svg.cut(label, _LABEL)) + 16 for _, label in all_shapes if label), default=0.0)
    widest = max((shape.width for shape, _ in all_shapes), default=0.0)
    height = sum(shape.height for shape, _ in all_shapes) + _BETWEEN * (len(all_shapes) - 1)
    tops, y = [], 0.0
    for shape, _ in all_shapes:
        tops.append(y)
        y += shape.height + _BETWEEN
    middles = [top + shape.middle for top, (shape, _) in zip(tops, all_shapes, strict=True)]
    middle = (middles[0] + middles[-1]) / 2 if middles else 0.0
    width = 2 * _FORK + labels + widest

    def at(x: float, y: float) -> list[Markup]:
        parts = []
        left, right = x + _FORK / 2, x + width - _FORK / 2
        for (shape, label), top, its_middle in zip(all_shapes, tops, middles, strict=True):
            start = x + _FORK + labels
            parts.append(_line(left, y + its_middle, start, y + its_middle))
            parts.append(_line(start + shape.width, y + its_middle, right, y + its_middle))
            if label:
                shown = svg.cut(label, _LABEL)
                text = svg.tag("text", shown, x=left + 6, y=y + its_middle - 4, class_="key")
                parts.append(svg.tag("g", svg.tag("title", label), text))
            parts += shape.draw(start, y + top)
        if middles:
            parts.append(_line(left, y + middles[0], left, y + middles[-1]))
            parts.append(_line(right, y + middles[0], right, y + middles[-1]))
            parts.append(_line(x, y + middle, left, y + middle))
            parts.append(_line(right, y + middle, x + width, y + middle))
        return parts

    return _Shape(width, height, middle, at)


def _more(count: int, what: str) -> _Shape:
    plural = {"branch": "branches"}.get(what, f"{what}s")
    text = f"… {count} more {what if count == 1 else plural}"
    width = svg.LETTER * len(text) + 10

    def at(x: float, y: float) -> list[Markup]:
        return [svg.tag("text", text, x=x + 4, y=y + 16, class_="more")]

    return _Shape(width, 24.0, 12.0, at)


def _line(x1: float, y1: float, x2: float, y2: float) -> Markup:
    return svg.tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_="line")


def _arrow(x1: float, y: float, x2: float) -> Markup:
    head = f"M{x2 - 7:.1f} {y - 4:.1f} L{x2:.1f} {y:.1f} L{x2 - 7:.1f} {y + 4:.1f} Z"
    return svg.tag("g", _line(x1, y, x2 - 5, y), svg.tag("path", d=head, class_="head"))
