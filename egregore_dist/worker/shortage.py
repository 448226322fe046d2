"""What follows where a process was killed for want of memory: more is reserved for its node, where there is more."""

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
from egregore_dist.workflow import spec


def after(ledger: Ledger, note: Note, *, held: int, lasted: float, ttl: float) -> Shortage | None:
    """Double what is reserved for the node that a process was at, and find where its branch has that.

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
    if block is None or note.branch == NOBODY:
        return None
    try:
        work = ledger.work(where.run)
        path = () if where.block == ROOT else block.path
        top = spec.step_at(spec.decode(work.spec).root, path)
        if where.block != ROOT:
            top = spec.step_at(top, interpret.branch_path(top, (), note.branch))
        functions = msgspec.msgpack.decode(work.functions, type=tuple[str, ...])
    except (errors.RunNotFound, msgspec.MsgspecError):
        # It has expired, or another release wrote it.
        return None
    called = {functions[node.function]: node for node in interpret.nodes(top) if node.name == note.node}
    if not called:
        return None
    cluster = Cluster(report.read(ledger.reports().values(), now=ledger.now(), ttl=ttl))
    name = where.token.rsplit("/", 2)[0]
    had = next((router.budget(said) for said in cluster.reports if said.worker == name), MOST_RESERVED)
    reserved = _reserve(ledger, called, held=held, had=had, lasted=lasted)
    queue = router.roomy(cluster, block.queues[where.track], reserved)
    lanes = cluster.pool(Demand(queue=queue, branches=1, memory=reserved)).lanes
    return Shortage(queue=queue, lanes=max(1, lanes), text=_told(cluster, queue, note.node, reserved))


def _reserve(ledger: Ledger, called: dict[str, spec.NodeSpec], *, held: int, had: int, lasted: float) -> int:
    profiles = Profiles(ledger)
    known, now = profiles.read_at(called)
    found: dict[str, Profile] = {}
    for function, node in called.items():
        its = known.get(function, Profile())
        learned = profile.of_branches({(function,): 1}, known)
        planned, _ = Demand(queue="", branches=1, memory=node.memory, learned=learned).memory_per_node
        # What was raised while this one ran, or what its worker did not have, is not what was too little for it.
        had_it = planned <= had and its.raised <= now - lasted * 1000
        reserved = min(MOST_RESERVED, max(2 * planned if had_it else planned, 2 * held))
        found[function] = Profile(reserved=reserved, raised=now)
    profiles.learn(found)
    return max(each.reserved for each in found.values())


def _told(cluster: Cluster, queue: str, node: str, reserved: int) -> str:
    text = f"{router.size(reserved)} are reserved for node {node!r} from now on"
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
