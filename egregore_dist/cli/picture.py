"""A run as it stands, for people and as JSON."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from egregore_dist import errors
from egregore_dist.cli import hooks, redact, show
from egregore_dist.ledger.keys import ROOT

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

    from egregore_dist.client.run import Run
    from egregore_dist.client.why import Reason
    from egregore_dist.ledger import BlockRecord, Ledger, RunRecord
    from egregore_dist.workflow import spec

# Blocks that one branch after another opens at the same place: shown one by one up to here, then as one line.
_SHOWN = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A run as it stands.

    Attributes:
        blocks: its blocks, parents first.
        running: by block, the names of what runs in it.
        branch: by block, the name of what it belongs to.
        why: why it waits.
        error: why it failed.
    """

    record: RunRecord
    now: float
    blocks: tuple[BlockRecord, ...]
    running: Mapping[str, list[Any]]
    branch: Mapping[str, Any]
    why: tuple[Reason, ...]
    error: errors.RunFailed | None


def take(ledger: Ledger, run: Run) -> Picture:
    """Read a run.

    Raises:
        errors.RunNotFound: there is none.
        errors.UnreadableWorkflow: another release has submitted it.
    """
    from egregore_dist.client import stored

    record = ledger.run(run.id)
    blocks = ledger.blocks(run.id)
    _, now = ledger.look(run.id, ROOT)
    workflow = stored.workflow(ledger, run.id)
    shown = [block for block in blocks if block.parent is not None]
    running = ledger.all_running(run.id, [block.id for block in shown if block.state == "open"])
    inside = {block.parent for block in shown}
    names = _names(ledger, run.id, workflow.root, [block for block in shown if block.id in running.keys() | inside])
    return Picture(
        record=record,
        now=now / 1000,
        blocks=tuple(shown),
        running={id: [names[id][branch] for branch in branches] for id, branches in running.items()},
        branch={
            block.id: names[block.parent][block.branch]
            for block in shown
            if block.parent in names and block.branch is not None
        },
        why=tuple(run.why()),
        error=_error(run) if record.state == "failed" else None,
    )


def _names(ledger: Ledger, run: str, root: spec.StepSpec, blocks: Sequence[BlockRecord]) -> dict[str, Sequence[Any]]:
    """The names of the branches of each of these blocks."""
    from egregore_dist.engine.outcome import Reader
    from egregore_dist.ledger import browse
    from egregore_dist.wire import codec
    from egregore_dist.workflow import spec

    maps = {block.id for block in blocks if isinstance(spec.step_at(root, block.path), spec.MapSpec)}
    inputs = sorted({block.input for block in blocks if block.id in maps})
    keys = {input: codec.split(raw).keys for input, raw in browse.mappings(ledger, run, inputs)}
    reader = Reader(ledger, run, root)
    return {
        block.id: keys.get(block.input, range(block.n)) if block.id in maps else reader.names(block) for block in blocks
    }


def seconds(record: RunRecord) -> float | None:
    """How long a run took, from its submission to its end, but for what lay before a retry; None while it goes on."""
    return None if record.ended is None else record.ended - record.created - record.rested


def times(record: RunRecord) -> dict[str, Any]:
    """A run as JSON: ``id``, ``workflow``, ``state``, ``created``, ``started``, ``ended``, ``seconds``."""
    return {
        "id": record.id,
        "workflow": record.workflow,
        "state": record.state,
        "created": show.moment(record.created),
        "started": show.moment(record.started),
        "ended": show.moment(record.ended),
        "seconds": seconds(record),
    }


def as_json(picture: Picture) -> dict[str, Any]:
    """What `times` says, and ``why``, ``error`` and ``blocks``."""
    return {
        **times(picture.record),
        "why": [_reason(reason) for reason in picture.why],
        "error": None if picture.error is None else show.failure(picture.error),
        "blocks": [_block(picture, block) for block in picture.blocks],
    }


def tree(picture: Picture) -> Tree:
    """The blocks of a run under each other."""
    from rich.text import Text
    from rich.tree import Tree

    record = picture.record
    head = Text.assemble(show.text(record.id, "bold"), "  ", show.text(record.workflow), "  ", show.state(record.state))
    head.append(f"\ncreated {show.local(record.created)}")
    if record.started is not None:
        head.append(f", started after {show.duration(record.started - record.created)}")
    if record.ended is not None:
        head.append(f", took {show.duration(seconds(record))}")
    if picture.error is not None:
        head.append(f"\n{redact.clean(hooks.text('error', str(picture.error))).partition(chr(10))[0]}", "red")
    made = Tree(head, guide_style="dim")
    children: dict[str | None, list[BlockRecord]] = defaultdict(list)
    for block in picture.blocks:
        children[block.parent].append(block)
    _grow(picture, made, ROOT, children)
    return made


def traceback(picture: Picture) -> Text | None:
    """Where in a node's code a run failed, as its worker saw it; None where there is nothing of that."""
    remote = None if picture.error is None else picture.error.remote_traceback
    return show.text(hooks.text("traceback", remote).rstrip()) if remote else None


def waits(picture: Picture) -> list[Text]:
    """Why it waits, a line for each reason; of many that are alike the first ones."""
    from egregore_dist.client import why

    found = why.gathered(picture.why)
    return [show.text(f"{reason}{f' (and {more} more like this)' if more else ''}") for reason, more in found]


def _grow(picture: Picture, at: Tree, parent: str, children: Mapping[str | None, list[BlockRecord]]) -> None:
    alike: dict[tuple[int, ...], list[BlockRecord]] = defaultdict(list)
    for block in children.get(parent, ()):
        alike[block.path].append(block)
    for blocks in alike.values():
        # What goes on or went wrong is looked for first.
        ordered = sorted(blocks, key=lambda block: (block.state == "ok", block.opened))
        for block in ordered[:_SHOWN]:
            _grow(picture, at.add(_line(picture, block)), block.id, children)
        rest = ordered[_SHOWN:]
        if rest:
            done, n = sum(block.done for block in rest), sum(block.n for block in rest)
            at.add(show.text(f"{len(rest)} more of {rest[0].name}: {done}/{n} branches", "dim"))


def _line(picture: Picture, block: BlockRecord) -> Any:
    from rich.text import Text

    line = Text.assemble(show.text(block.name, "bold"), f"  {block.done}/{block.n}  ", show.state(block.state))
    line.append(f"  {show.duration((block.ended / 1000 if block.ended else picture.now) - block.opened / 1000)}")
    if block.id in picture.branch:
        line.append_text(show.text(f"  in branch {picture.branch[block.id]}", "dim"))
    running = [str(name) for name in picture.running.get(block.id, ())]
    if running:
        more = f" and {len(running) - _SHOWN} more" if len(running) > _SHOWN else ""
        line.append_text(show.text(f"  running: {', '.join(running[:_SHOWN])}{more}", "cyan"))
    return line


def _reason(reason: Reason) -> dict[str, Any]:
    return {
        "kind": reason.kind,
        "block": reason.block,
        "name": reason.name,
        "branch": reason.branch,
        "text": reason.text,
        "numbers": reason.numbers,
        "names": reason.names,
    }


def _block(picture: Picture, block: BlockRecord) -> dict[str, Any]:
    opened = block.opened / 1000
    ended = None if block.ended is None else block.ended / 1000
    return {
        "id": block.id,
        "name": block.name,
        "state": block.state,
        "branches": block.n,
        "done": block.done,
        "failed": block.failed is not None,
        "running": picture.running.get(block.id, []),
        "parent": None if block.parent == ROOT else block.parent,
        "branch": picture.branch.get(block.id),
        "opened": show.moment(opened),
        "ended": show.moment(ended),
        "seconds": None if ended is None else ended - opened,
    }


def _error(run: Run) -> errors.RunFailed | None:
    try:
        run.result(timeout=0, progress=False)
    except errors.RunFailed as error:
        return error
    except TimeoutError:
        # It was retried since.
        return None
    return None
