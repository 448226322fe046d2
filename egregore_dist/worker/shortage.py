"""What follows where a process was killed for want of memory: more is reserved for its nodes, where there is more."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from egregore_dist import errors
from egregore_dist.engine import interpret
from egregore_dist.engine.board import NOBODY, Note
from egregore_dist.ledger import Ledger, Shortage
from egregore_dist.ledger.keys import ROOT
from egregore_dist.ledger.profiles import Profiles
from egregore_dist.resources import needs, profile, report, router
from egregore_dist.resources.profile import MOST_RESERVED, Profile
from egregore_dist.resources.router import Cluster, Demand
from egregore_dist.wire import code
from egregore_dist.workflow import spec


def after(ledger: Ledger, note: Note, *, held: int, lasted: float, ttl: float) -> Shortage | None:
    """Reserve more for the node that a process was at, and find where its branch has that.

    What it was alone at is reserved twice as much. Of branches that ran together in it, each is taken to need twice its
    part of what the process held: so half as many run together from then on. Where it is not known at which of their
    nodes it was, that is so of each node.

    Args:
        note: what the process was executing.
        held: bytes that it was last seen to hold.
        lasted: for how many seconds it had executed the branch.
        ttl: seconds after which a silent worker counts as gone.

    Returns:
        None where it is not known what the process was at.

    Raises:
        errors.BrokerUnavailable: the ledger cannot be reached.
    """
    where = note.where
    block = ledger.block(where.run, where.block)
    if block is None:
        return None
    together = ledger.leased(where.run, where.block, where.token) if note.loop else [note.branch]
    branch = note.branch if note.branch != NOBODY else next(iter(together), NOBODY)
    if branch == NOBODY:
        return None
    try:
        work = ledger.work(where.run)
        path = () if where.block == ROOT else block.path
        top = spec.step_at(spec.decode(work.spec).root, path)
        if where.block != ROOT:
            top = spec.step_at(top, interpret.branch_path(top, (), branch))
        functions = code.decode_references(work.functions)
    except (errors.RunNotFound, msgspec.MsgspecError):
        # It has expired, or another release wrote it.
        return None
    nodes = [node for node in interpret.nodes(top) if note.node in ("", node.name)]
    called = {functions[node.function]: node for node in nodes}
    if not called:
        return None
    cluster = Cluster(report.read(ledger.reports().values(), now=ledger.now(), ttl=ttl))
    name = where.token.rsplit("/", 2)[0]
    had = next((router.budget(said) for said in cluster.reports if said.worker == name), MOST_RESERVED)
    reserved = _reserve(ledger, called, held=held, together=max(1, len(together)), had=had, lasted=lasted)
    queue = block.queues[where.track]
    if len(together) <= 1:
        queue = router.roomy(cluster, queue, reserved)
    lanes = cluster.pool(Demand(queue=queue, branches=1, memory=reserved)).lanes
    return Shortage(queue=queue, lanes=max(1, lanes), text=_told(cluster, queue, nodes, reserved))


def _reserve(
    ledger: Ledger, called: dict[str, spec.NodeSpec], *, held: int, together: int, had: int, lasted: float
) -> int:
    profiles = Profiles(ledger)
    known, now = profiles.read_at(called)
    found: dict[str, Profile] = {}
    for function, node in called.items():
        its = known.get(function, Profile())
        learned = profile.of_branches({(function,): 1}, known)
        planned, _ = Demand(queue="", branches=1, memory=node.memory, learned=learned).memory_per_node
        # What was raised while this one ran, or what its worker did not have, is not what was too little for it.
        had_it = planned <= had and its.raised <= now - lasted * 1000
        if together > 1:
            reserved = max(its.reserved, 2 * held // together)
        else:
            reserved = max(2 * planned if had_it else planned, 2 * held)
        reserved = min(MOST_RESERVED, reserved)
        found[function] = Profile(reserved=reserved, raised=now)
    profiles.learn(found)
    return max(each.reserved for each in found.values())


def _told(cluster: Cluster, queue: str, nodes: Iterable[spec.NodeSpec], reserved: int) -> str:
    names = dict.fromkeys(repr(node.name) for node in nodes)
    text = f"{router.size(reserved)} are reserved for node {' and '.join(names)} from now on"
    return text + _too_small((said for said in cluster.reports if router.serves(said, queue)), queue, reserved)


def _too_small(serving: Iterable[report.Report], queue: str, reserved: int) -> str:
    largest = max(serving, key=router.budget, default=None)
    if largest is None or router.budget(largest) >= reserved:
        return ""
    share = f"{router.MEMORY_SHARE:.0%} of {router.size(largest.memory_total)}"
    return (
        f", which no live worker of queue {needs.of(queue).queue!r} has: the largest, {largest.worker!r}, "
        f"has {router.size(router.budget(largest))} ({share})"
    )
