"""How much work waits, by what was learned of how long branches take."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from egregore_dist.engine import compile as compiler
from egregore_dist.ledger import Ledger, Work
from egregore_dist.ledger.openblocks import OpenBlock
from egregore_dist.ledger.profiles import Profiles
from egregore_dist.resources import chains, profile
from egregore_dist.resources.chains import Chain
from egregore_dist.wire import code
from egregore_dist.workflow import spec

# Blocks of which is kept what their branches execute, and runs whose specs are read at a time: the others next time.
_KEPT, _RUNS_READ = 4096, 200

_Run = tuple[str, int]
_Place = tuple[_Run, spec.Path]
# So many branches execute these functions; none where that is not known.
_Chains = dict[Chain[str], int]


@dataclass(slots=True)
class Estimate:
    """Of one series: seconds of work that wait, and branches of which it is not known how long they take."""

    seconds: float = 0.0
    unknown: int = 0


class Estimator:
    """Estimates the work of a cluster's branches that wait; what it remembers can be read again.

    Args:
        queue: of nodes that ask for none, where a run does not say it.
    """

    def __init__(self, ledger: Ledger, queue: str) -> None:
        self._ledger = ledger
        self._queue = queue
        self._profiles = Profiles(ledger)
        self._lock = threading.Lock()
        self._chains: OrderedDict[_Place, _Chains] = OrderedDict()

    def estimate(self, blocks: Iterable[OpenBlock]) -> dict[str, Estimate]:
        """The work that waits, by series. Raises `errors.BrokerUnavailable`."""
        waiting = [block for block in blocks if block.waiting]
        with self._lock:
            self._look_up(waiting)
            found_of = [self._chains.get(((block.run, block.created), block.path), {}) for block in waiting]
        functions = {name for each in found_of for chain in each for name in chains.functions(chain)}
        known = self._profiles.read(functions)
        found: dict[str, Estimate] = {}
        for block, each in zip(waiting, found_of, strict=True):
            estimate = found.setdefault(block.series, Estimate())
            learned = profile.of_branches(each, known)
            if learned is None or not learned.executions:
                estimate.unknown += block.waiting
            else:
                estimate.seconds += block.waiting * learned.wall
        return found

    def _look_up(self, blocks: Sequence[OpenBlock]) -> None:
        missing: dict[_Run, set[spec.Path]] = {}
        for block in blocks:
            # An id may have been used again.
            run = (block.run, block.created)
            if (run, block.path) in self._chains:
                self._chains.move_to_end((run, block.path))
            elif run in missing or len(missing) < _RUNS_READ:
                missing.setdefault(run, set()).add(block.path)
        works = self._ledger.works([id for id, _ in missing]) if missing else {}
        for run, paths in missing.items():
            for path, found in zip(paths, _chains_of(paths, works.get(run[0]), self._queue), strict=True):
                self._chains[run, path] = found
        while len(self._chains) > _KEPT:
            self._chains.popitem(last=False)


def _chains_of(paths: Iterable[spec.Path], work: Work | None, default_queue: str) -> list[_Chains]:
    if work is None:
        return [{} for _ in paths]
    try:
        root = spec.decode(work.spec).root
        functions = code.decode_references(work.functions)
    except msgspec.MsgspecError:
        # It is of another release.
        return [{} for _ in paths]
    return [_chains(spec.step_at(root, path), functions, work.queue or default_queue) for path in paths]


def _chains(step: spec.StepSpec, functions: Sequence[str], queue: str) -> _Chains:
    parts = compiler.shape(step, queue).parts
    if not all(part.chains for part in parts):
        return {}
    found: _Chains = {}
    for part in parts:
        for chain, branches in part.chains.items():
            named = chains.named(chain, functions)
            found[named] = found.get(named, 0) + branches
    return found
