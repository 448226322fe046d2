"""Advice for authors of nodes: what ``io=True`` would do for sync nodes that mostly wait, by what was learned of them.

Nothing here changes how a node runs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from egregore_dist.engine import compile as compiler
from egregore_dist.engine import interpret
from egregore_dist.ledger import Ledger
from egregore_dist.ledger.profiles import Profiles
from egregore_dist.resources import chains, profile, router
from egregore_dist.resources.chains import Chain
from egregore_dist.resources.profile import Learned, Profile
from egregore_dist.wire import code
from egregore_dist.workflow import spec

# Seconds that a branch computes and waits at least: shorter ones gain nothing by sharing a process.
_WORTH_SHARING = 5e-3

Learns = Callable[[Collection[str]], Mapping[str, Profile]]

# Names of nodes in one sentence.
_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Branches of one block that call the same functions, and could run on threads if their nodes declared ``io=True``.

    Attributes:
        chain: the functions that each branch executes, by their index in the workflow.
        names: the sync nodes that do not declare it.
        most: how many of the branches may run at a time at most; None where that is not known.
    """

    chain: Chain[int]
    names: tuple[str, ...]
    most: int | None


def sentence(names: Sequence[str], known: Learned | None, most: int) -> str | None:
    """What ``io=True`` would do for branches, or None where they are not known to wait for most of their time.

    Args:
        names: the nodes that would have to declare it.
        known: what was learned of one branch.
        most: how many branches a lane may run at a time on threads.
    """
    if known is None or known.cpu is None or not router.is_believed(known):
        return None
    seconds = known.cpu + known.waits
    if most < 2 or seconds < _WORTH_SHARING or known.cpu >= known.waits:
        return None
    at_once = router.keep_busy(known, most) or most
    waits, whose = ("waits", "its") if len(names) == 1 else ("wait", "their")
    return (
        f"{_listed(names)} {waits} {int(100 * known.waits / seconds)} % of {whose} time: "
        f"`io=True` would run up to {at_once} at once on each slot"
    )


def of_function(names: Sequence[str], known: Profile, most: int) -> str | None:
    """The sentence for one function that these nodes call; otherwise as `sentence`."""
    return sentence(names, profile.of_branches({("",): 1}, {"": known}), most)


def of_blocks(
    blocks: Iterable[spec.BlockSpec], functions: Sequence[str], learned: Learns, *, queue: str, most: int
) -> tuple[str, ...]:
    """The sentences for branches of blocks, each once.

    Args:
        blocks: of one workflow.
        functions: the references of its functions.
        learned: reads the profiles of functions.
        queue: the Celery queue of nodes that ask for no other.
        most: how many branches a lane may run at a time on threads.
    """
    found = [each for block in blocks for each in candidates(block, queue)]
    known = learned({functions[at] for each in found for at in chains.functions(each.chain)})
    made: dict[str, None] = {}
    for each in found:
        branches = profile.of_branches({chains.named(each.chain, functions): 1}, known)
        text = sentence(each.names, branches, most if each.most is None else min(most, each.most))
        if text is not None:
            made[text] = None
    return tuple(made)


def of_run(ledger: Ledger, run: str, most: int) -> tuple[str, ...]:
    """The sentences for all blocks of a run's workflow; none where another release submitted it.

    Raises:
        errors.RunNotFound: there is no such run.
        errors.BrokerUnavailable: the ledger cannot be reached.
    """
    work = ledger.work(run)
    try:
        root = spec.decode(work.spec).root
        functions = code.decode_references(work.functions)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ()
    blocks = [block for _, block in spec.blocks(root)]
    return of_blocks(blocks, functions, Profiles(ledger).read, queue=work.queue, most=most)


def candidates(block: spec.BlockSpec, queue: str) -> Iterator[Candidate]:
    """The branches of a block that ``io=True`` could run on threads, by what they call.

    Args:
        queue: the Celery queue of nodes that ask for no other.
    """
    if not block.optimize:
        return
    alike: dict[Chain[int], dict[str, None]] = {}
    for branch in spec.children(block):
        if isinstance(branch, spec.NodeSpec):
            chain: Chain[int] = (branch.function,)
            nodes = [branch]
        else:
            its_queue = compiler.branch_queue(branch, queue)
            if _decides(branch) or not compiler.stays(branch, its_queue):
                continue
            chain, nodes = compiler.chain_of(branch, its_queue), interpret.nodes(branch)
        names = [node.name for node in nodes if not (node.is_async or node.io)]
        if names:
            alike.setdefault(chain, {}).update(dict.fromkeys(names))
    limits = (block.max_concurrent, len(block.branches) if isinstance(block, spec.ParallelSpec) else None)
    most = min((limit for limit in limits if limit is not None), default=None)
    for chain, names_of_chain in alike.items():
        yield Candidate(chain=chain, names=tuple(names_of_chain), most=most)


def _decides(step: spec.StepSpec) -> bool:
    # A sync decision runs alone: it cannot declare anything.
    return (isinstance(step, spec.DecisionSpec) and not step.node.is_async) or any(map(_decides, spec.children(step)))


def _listed(names: Sequence[str]) -> str:
    shown = [f"`{name}`" for name in names[:_NAMED]]
    if len(names) > _NAMED:
        shown.append(f"{len(names) - _NAMED} more nodes" if len(names) > _NAMED + 1 else "1 more node")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
