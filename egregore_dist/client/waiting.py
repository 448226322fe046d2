"""What there is to read about a run that waits: the ledger's look at it, the workers' reports, and its workflow."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from egregore_dist.client import why
from egregore_dist.engine import compile as compiler
from egregore_dist.ledger import Ledger, browse, waits
from egregore_dist.ledger.keys import ROOT
from egregore_dist.resources import chains, report
from egregore_dist.settings import Settings
from egregore_dist.wire import code
from egregore_dist.workflow import spec


def of_run(ledger: Ledger, settings: Settings, run: str) -> list[why.Reason]:
    """Why things of a run wait, in a bounded number of reads; nothing for a run that has ended.

    Raises:
        errors.RunNotFound: there is no such run.
        errors.BrokerUnavailable: the ledger cannot be reached.
    """
    look = waits.look(ledger, run)
    if look is None:
        return []
    is_any = any(block.waiting for block in look.blocks)
    needs, branches = _of_workflow(look, settings.queue)
    return why.reasons(
        why.Facts(
            look=look,
            reports=report.read(ledger.reports().values(), now=look.now, ttl=settings.report_ttl),
            needs=needs,
            branches=branches,
            others=waits.others(ledger, run) if is_any else {},
        )
    )


def _of_workflow(
    look: waits.Look, default_queue: str
) -> tuple[dict[tuple[str, int], why.Need], dict[tuple[str, int], str]]:
    """What the tracks of open blocks need, and the names of branches, as far as the stored workflow tells."""
    needs: dict[tuple[str, int], why.Need] = {}
    names: dict[tuple[str, int], str] = {}
    work = look.work
    queue = work.queue or default_queue
    told = {(block.parent, block.branch) for block in look.blocks}
    told |= {(block.id, again.branch) for block in look.blocks for track in block.tracks for again in track.again}
    told |= {(retry.block, retry.branch) for retry in look.retries}
    try:
        root = _root(work.spec)
        for block in look.blocks:
            if block.waiting:
                path = None if block.id == ROOT else block.path
                of_tracks = _needs(work.spec, work.functions, queue, path)
                needs |= {(block.id, number): need for number, need in enumerate(of_tracks)}
    except msgspec.MsgspecError:
        # It is of another release.
        return needs, names
    for id, branch in told:
        if id in (None, ROOT) or branch is None:
            continue
        step = spec.step_at(root, browse.path_in(id))
        if isinstance(step, spec.ParallelSpec):
            names[id, branch] = step.keys[branch]
    return needs, names


# A page asks again and again, and a large workflow takes a tenth of a second.
@lru_cache(maxsize=8)
def _root(raw: bytes) -> spec.StepSpec:
    return spec.decode(raw).root


@lru_cache(maxsize=64)
def _needs(raw: bytes, functions: bytes, queue: str, path: spec.Path | None) -> tuple[why.Need, ...]:
    """What each track of the block at a path needs; without a path, of the whole run, a block of one branch."""
    root = _root(raw)
    step = spec.SequenceSpec("", (root,)) if path is None else spec.step_at(root, path)
    # Any worker that shares the client's secret loads the modules of signed references by itself.
    refs = () if code.is_signed(functions) else code.decode_references(functions)
    return tuple(_need(part, refs) for part in compiler.shape(step, queue).parts)


def _need(part: compiler.Part, functions: tuple[str, ...]) -> why.Need:
    refs = {functions[at] for chain in part.chains for at in chains.functions(chain)} if functions else set()
    modules = frozenset(ref.split(":")[1] for ref in refs if ref.startswith("m:"))
    return why.Need(memory=part.memory, cpus=part.cpus, modules=modules)
