"""The report of a run as Markdown, and as a page that needs nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources

from egregore_dist.client import amounts, svg
from egregore_dist.client.runreport import Executions, Link, RunReport
from egregore_dist.client.svg import Svg

#: Rows of a table; of more, the number of the others is told.
ROWS_SHOWN = 200

# Letters of the nodes of a part.
_LETTERS = 100

# What Markdown would take for more than text; an underscore within a word is one.
_SPECIAL = re.compile(r"[\\`*\[\]<>|~&]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
# Even if something were not escaped, it could neither run nor load anything.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_PARTIAL = "The ledger does not have all events of this run any more, or has more than are read: some are missing here."
_STEPS = (
    "Steps are executions as one of several nodes of a branch: it is not known how long they took. Of what a decision "
    "chose no event tells, so nodes in its choices may be missing."
)
_EXECUTIONS = ("Executions", "Failed", "Lost", "Min", "Mean", "p95", "Max", "CPU", "Memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """One table: the first ``texts`` of its columns hold text, the others amounts. ``hint`` says what they are not."""

    title: str
    columns: Sequence[str]
    texts: int
    rows: Sequence[Sequence[str]]
    hint: str = ""

    def shown(self) -> list[Sequence[str]]:
        """As many rows as are shown."""
        more = len(self.rows) - ROWS_SHOWN
        if more <= 0:
            return list(self.rows)
        return [*self.rows[:ROWS_SHOWN], [f"… and {more} more", *[""] * (len(self.columns) - 1)]]


def markdown(report: RunReport) -> str:
    """A report as Markdown."""
    lines = [f"# Run {_escaped(report.id)}", ""]
    lines += [f"- {label}: {_escaped(value)}" for label, value in _facts(report)]
    for table in _tables(report):
        lines += ["", f"## {table.title}", "", _row(table.columns)]
        lines.append(_row("---" if number < table.texts else "---:" for number in range(len(table.columns))))
        lines += [_row(map(_escaped, row)) for row in table.shown()]
        lines += ["", table.hint] if table.hint else []
    if report.advice:
        lines += ["", "## Advice", "", *(f"- {_escaped(sentence)}" for sentence in report.advice)]
    if report.partial:
        lines += ["", f"*{_PARTIAL}*"]
    return "\n".join(lines) + "\n"


def html(report: RunReport) -> str:
    """A report as a page of its own."""
    parts = [svg.tag("h1", f"Run {report.id}")]
    facts = [svg.tag("div", svg.tag("dt", label), svg.tag("dd", value)) for label, value in _facts(report)]
    parts.append(svg.tag("dl", *facts))
    if report.partial:
        parts.append(svg.tag("p", _PARTIAL, class_="note"))
    if report.timeline:
        parts.append(svg.tag("h2", "Timeline"))
        parts.append(svg.tag("div", Svg(report.timeline), class_="wide", tabindex="0"))
        parts.append(svg.tag("p", "★ is what the end waited for.", class_="hint"))
    for table in _tables(report):
        parts += [svg.tag("h2", table.title), svg.tag("div", _html(table), class_="wide", tabindex="0")]
        parts += [svg.tag("p", table.hint, class_="hint")] if table.hint else []
    if report.advice:
        parts += [svg.tag("h2", "Advice"), svg.tag("ul", *(svg.tag("li", sentence) for sentence in report.advice))]
    style = (resources.files("egregore_dist.client") / "report.css").read_text("utf-8")
    title = svg.tag("title", f"Run {report.id}")
    body = svg.tag("body", svg.tag("main", *parts))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"{title}\n<style>\n{style}</style>\n</head>\n{body}\n</html>\n"
    )


def _facts(report: RunReport) -> Iterator[tuple[str, str]]:
    totals, all_of = report.totals, report.executions
    yield "Workflow", report.workflow
    yield "State", report.state
    yield "Submitted", _moment(report.created)
    if report.ended is None:
        yield "Until", _moment(report.at)
    else:
        yield "Ended", _moment(report.ended)
    yield "Waited", amounts.duration(report.waited)
    yield "Ran", amounts.duration(report.ran)
    became = [f"{totals.ok} ok", *_some(totals.failed, "failed"), *_some(totals.stopped, "stopped")]
    became += _some(totals.open, "not ended")
    yield (
        "Branches",
        f"{totals.branches} in {amounts.count(totals.blocks, 'block')}: {', '.join(became)}",
    )
    yield "Success rate", "-" if report.success_rate is None else f"{report.success_rate:.1%}"
    yield "Executions", str(all_of.count)
    took = all_of.durations
    if took.count:
        each = (("min", took.min), ("mean", took.mean), ("p95", took.p95), ("max", took.max))
        yield "An execution took", ", ".join(f"{name} {amounts.duration(seconds)}" for name, seconds in each)
    if report.parts.count:
        yield "Beside blocks", f"{amounts.duration(report.parts.total)} in {amounts.count(report.parts.count, 'part')}"
    if all_of.measured:
        yield "CPU time", f"{amounts.duration(all_of.cpu)} in the {all_of.measured} that were measured"
    if all_of.together:
        yield "Leased together", str(all_of.together)
    if report.retries.count:
        kept = amounts.count(report.retries.kept, "branch")
        saved = amounts.duration(report.retries.saved)
        yield "Retried", f"{_times(report.retries.count)}; the last one kept {kept}, which had taken {saved}"


def _tables(report: RunReport) -> Iterator[_Table]:
    if report.blocks:
        yield _Table(
            title="Blocks",
            columns=("Block", "Opened", "Branches", "Ok", *_EXECUTIONS),
            texts=1,
            rows=[
                [block.name, str(block.opened), str(block.branches), str(block.ok), *_cells(block.executions)]
                for block in report.blocks
            ],
        )
    if report.nodes:
        rows = [[node.name, str(node.steps), *_cells(node.executions)] for node in report.nodes]
        hint = _STEPS if any(node.steps for node in report.nodes) else ""
        yield _Table(title="Nodes", columns=("Node", "Steps", *_EXECUTIONS), texts=1, rows=rows, hint=hint)
    if report.workers:
        rows = [[worker.name, amounts.duration(worker.busy), *_cells(worker.executions)] for worker in report.workers]
        yield _Table(title="Workers", columns=("Worker", "Busy", *_EXECUTIONS), texts=1, rows=rows)
    if report.critical_path:
        rows = [
            [link.name, _branch(link), link.worker or "-", *map(amounts.duration, (link.waited, link.ran))]
            for link in report.critical_path
        ]
        columns = ("Block", "Its last branch", "Worker", "Waited", "Ran")
        yield _Table(title="What the end waited for", columns=columns, texts=3, rows=rows)


def _branch(link: Link) -> str:
    nodes = ", ".join(link.nodes)
    return f"{link.branch or '-'}: {svg.cut(nodes, _LETTERS)}" if nodes else link.branch or "-"


def _cells(executions: Executions) -> list[str]:
    took = executions.durations
    counts = (executions.count, executions.failed, executions.lost)
    cpu = executions.cpu if executions.measured else None
    memory = "-" if executions.memory is None else amounts.size(executions.memory)
    return [*map(str, counts), *map(amounts.duration, (took.min, took.mean, took.p95, took.max, cpu)), memory]


def _html(table: _Table) -> Svg:
    def kind(number: int) -> str | None:
        return None if number < table.texts else "right"

    heads = [svg.tag("th", name, scope="col", class_=kind(number)) for number, name in enumerate(table.columns)]
    rows = [
        svg.tag("tr", *(svg.tag("td", cell, class_=kind(number)) for number, cell in enumerate(row)))
        for row in table.shown()
    ]
    return svg.tag("table", svg.tag("thead", svg.tag("tr", *heads)), svg.tag("tbody", *rows))


def _row(cells: Iterator[str] | Sequence[str] | map[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\g<0>", svg.printable(" ".join(text.split("\n"))))


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _some(count: int, what: str) -> list[str]:
    return [f"{count} {what}"] if count else []


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
