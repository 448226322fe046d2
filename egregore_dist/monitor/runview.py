"""A run as its page shows it: its blocks, its picture and its timeline, read in a bounded number of calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from egregore_dist import errors
from egregore_dist.client import gantt, naming, stored, waiting
from egregore_dist.client.svg import Svg
from egregore_dist.client.why import Reason, gathered
from egregore_dist.ledger import ENDED, Ledger, RunRecord, browse, lanes
from egregore_dist.ledger.browse import BlockGlance, Blocks
from egregore_dist.ledger.keys import ROOT
from egregore_dist.ledger.lanes import AtBlock
from egregore_dist.monitor import failures, progress, tree, words
from egregore_dist.monitor.failures import Why
from egregore_dist.monitor.kept import Kept, Shared
from egregore_dist.monitor.progress import Progress
from egregore_dist.monitor.standing import Facts
from egregore_dist.monitor.timelines import Timelines
from egregore_dist.resources import report
from egregore_dist.settings import Settings
from egregore_dist.workflow import spec
from egregore_dist.workflow.spec import Path

#: Blocks of a run that are read for its page, and those in its table.
BLOCKS_READ = 1500
BLOCKS_SHOWN = 50

# Blocks whose branches the picture looks at one by one.
_LOOKED_INTO = 40
_SPECS_KEPT = 16
_NAMES_KEPT = 32
_VIEWS_KEPT = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """One run.

    Attributes:
        record: the run.
        now: the server's time, in seconds.
        blocks: its blocks, as many as were read.
        total: how many there are.
        progress: how far they are.
        shown: those in the table.
        branch: by block, the name of the branch that it is nested in; "" where it is in none.
        tree: the picture of the workflow, or None where the spec cannot be read.
        gantt: the picture of the timeline, or None.
        partial: of how many branches the timeline has the times, and how many there are; None where it lacks none.
        cursor: of the last event in it.
        waits: why it waits: reasons, and how many more there are like each.
        why: why it failed, or None.
        culprit: the name of the branch that failed.
    """

    record: RunRecord
    now: float
    blocks: Blocks
    total: int
    progress: Progress
    shown: Sequence[BlockGlance]
    branch: Mapping[str, str]
    tree: Markup | None
    gantt: Svg | None
    partial: tuple[int, int] | None
    cursor: str
    waits: Sequence[tuple[Reason, int]]
    why: Why | None
    culprit: str


class Reader:
    """Reads runs for pages; what it remembers can be read again."""

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self._ledger = ledger
        self._settings = settings
        self.timelines = Timelines(ledger)
        self._specs: Kept[tuple[str, float], spec.WorkflowSpec] = Kept(_SPECS_KEPT)
        self._keys: Kept[tuple[str, float, str], list[str]] = Kept(_NAMES_KEPT)
        self._views: Shared[str, RunView] = Shared(_VIEWS_KEPT)

    def run(self, run: str, link: Callable[[Path], str]) -> RunView:
        """Read a run, once for all who look at it now. Raises `errors.RunNotFound`."""
        return self._views.get(run, lambda: self._read(run, link))

    def _read(self, run: str, link: Callable[[Path], str]) -> RunView:
        ledger = self._ledger
        record = ledger.run(run)
        blocks = browse.blocks(ledger, run, limit=BLOCKS_READ)
        waits = gathered(waiting.of_run(ledger, self._settings, run))
        why = failures.of_run(ledger, run) if record.state == "failed" else None
        workflow = self._spec_or_none(record)
        now = ledger.now() / 1000
        namer = self.namer(record, workflow, blocks.shown)
        facts = self._facts(record, workflow, blocks, why, now)
        with self.timelines.read(run, record.created) as timeline:
            timeline.learn(record, blocks.shown)
            chart = gantt.draw(timeline, record.workflow, now, namer, words.clean)
            partial, cursor = timeline.known() if timeline.partial else None, timeline.cursor
        return RunView(
            record=record,
            now=now,
            blocks=blocks,
            total=sum(blocks.counts.values()),
            progress=progress.of(record, blocks.shown, now),
            shown=blocks.shown[:BLOCKS_SHOWN],
            branch={block.id: self.nested_in(block, namer) for block in blocks.shown[:BLOCKS_SHOWN]},
            tree=None if workflow is None else tree.draw(workflow, facts, link),
            gantt=chart,
            partial=partial,
            cursor=cursor,
            waits=waits,
            why=why,
            culprit="" if why is None or why.branch is None or why.block == ROOT else namer(why.block, why.branch),
        )

    def workflow(self, record: RunRecord) -> spec.WorkflowSpec:
        """The spec of a run's workflow. Raises `errors.RunNotFound`, `errors.UnreadableWorkflow`."""
        key = (record.id, record.created)
        return self._specs.get(key, lambda: stored.workflow(self._ledger, record.id))

    def namer(
        self, record: RunRecord, workflow: spec.WorkflowSpec | None, known: Sequence[BlockGlance]
    ) -> Callable[[str, int], str]:
        """Tells the name of a branch by block and position."""
        by_id = {block.id: block for block in known}

        def name(id: str, branch: int) -> str:
            block = by_id.get(id)
            if block is None:
                return f"#{branch}"
            keys = self._names(record, workflow, block)
            return keys[branch] if branch < len(keys) else f"#{branch}"

        return name

    @staticmethod
    def nested_in(block: BlockGlance, namer: Callable[[str, int], str]) -> str:
        """The name of the branch that a block is nested in, or ""."""
        if block.parent in (None, ROOT) or block.branch is None:
            return ""
        return namer(block.parent or "", block.branch)

    def _names(self, record: RunRecord, workflow: spec.WorkflowSpec | None, block: BlockGlance) -> Sequence[str]:
        """The names of a block's branches; of a map over a list none, since those are its positions."""
        if workflow is None:
            return ()
        told = naming.told(workflow.root, block)
        if told is None:
            key = (record.id, record.created, block.input)
            return self._keys.get(key, lambda: naming.of_map(self._ledger, record.id, block))
        return told

    def _spec_or_none(self, record: RunRecord) -> spec.WorkflowSpec | None:
        try:
            return self.workflow(record)
        except errors.UnreadableWorkflow:
            return None

    def _facts(
        self, record: RunRecord, workflow: spec.WorkflowSpec | None, blocks: Blocks, why: Why | None, now: float
    ) -> Facts:
        by_path: dict[Path, list[BlockGlance]] = {}
        for block in blocks.shown:
            by_path.setdefault(block.path, []).append(block)
        branches: dict[tuple[str, int], str] = {}
        alone = [found[0] for path, found in by_path.items() if len(found) == blocks.counts[path] == 1]
        for block in alone[:_LOOKED_INTO] if workflow is not None else ():
            rows = browse.branches(self._ledger, record.id, block, range(min(block.n, tree.BRANCHES_SHOWN)))
            branches.update({(block.id, row.position): row.state for row in rows})
        node = why.failure.node if why is not None and why.failure is not None else None
        work = () if record.state in ENDED or workflow is None else self._work(record.id, now)
        return Facts(
            run=record.state,
            blocks=by_path,
            counts=blocks.counts,
            open=blocks.open,
            branches=branches,
            called={(lane.block, lane.branch): lane.node for lane in work if lane.branch is not None},
            untold={lane.block for lane in work if lane.branch is None},
            culprit=node or "",
        )

    def _work(self, run: str, now: float) -> Sequence[AtBlock]:
        """What lanes are at in a run, as their workers have reported last."""
        raws, ttl = self._ledger.reports().values(), self._settings.report_ttl
        found = lanes.at_work(self._ledger, report.read(raws, now=int(now * 1000), ttl=ttl), run=run)
        return [lane for of_worker in found.values() for lane in of_worker]
