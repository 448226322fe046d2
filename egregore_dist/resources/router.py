"""What a block gets of the cluster: pure functions of what workers report, of what was learned, and of its demand.

Every decision carries the numbers that it came from.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypedDict

from egregore_dist.resources import host, needs
from egregore_dist.resources.host import Host, Left
from egregore_dist.resources.profile import Learned
from egregore_dist.resources.report import Report

MEMORY_SHARE = host.MEMORY_SHARE
MEMORY_PER_NODE = needs.MEMORY_PER_NODE

# What was learned to need next to nothing is planned with so much. Bytes.
_LEAST_MEMORY = 2**20

#: Lanes at most where no worker has reported that could serve them: some, for those that will come.
UNSEEN = 64

# Executions before what was learned is believed.
_BELIEVED = 3

# The part of a lane's time that an async branch takes, of which many take turns.
_OF_ASYNC = 0.01

# One lease shall last so many seconds; each branch takes at least these, whatever its nodes do.
_LEASE, _OWN = 0.010, 50e-6

#: Blocks of so many branches end before it would matter what was learned of them.
FEW = 16

Source = Literal["declared", "learned", "assumed", "after OOM"]
Bound = Literal[
    "branches", "max_concurrent", "slots", "cores", "GPUs", "memory", "other tracks", "no worker", "not optimized"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """The branches of one track, and what one of them needs. Memory in bytes.

    Attributes:
        queue: where they run; its name also says the labels and GPUs that they need, see `needs`.
        branches: how many there are.
        is_async: many of them can run on one event loop.
        batched: many of them may be leased at a time.
        limited: they begin with a node that has a limit, so that a lane takes one after the other of its places.
        memory: what the neediest was declared to need.
        cpus: cores that it was declared to need.
        io: many of them can run on threads of one process, as their nodes declare.
        learned: what is known of their executions.
    """

    queue: str
    branches: int
    is_async: bool = False
    batched: bool = False
    limited: bool = False
    memory: int | None = None
    cpus: float | None = None
    io: bool = False
    learned: Learned | None = None

    @property
    def memory_per_node(self) -> tuple[int, Source]:
        """The memory that a branch is planned with: as it was declared, else learned, else 50 MB.

        More is reserved for it where that was not enough, and its process was killed for want of memory. What was seen
        then counts for more than what is only assumed.
        """
        planned, source = self._planned
        reserved = self.learned.reserved if self.learned is not None else 0
        if reserved > planned or (reserved and source == "assumed"):
            return max(_LEAST_MEMORY, reserved), "after OOM"
        return planned, source

    @property
    def _planned(self) -> tuple[int, Source]:
        if self.memory is not None:
            return self.memory, "declared"
        if self.learned is not None and self.learned.memory is not None:
            return max(_LEAST_MEMORY, self.learned.memory), "learned"
        return MEMORY_PER_NODE, "assumed"

    @property
    def gpus(self) -> int:
        """GPUs that a branch needs."""
        return needs.of(self.queue).gpus


@dataclass(frozen=True, slots=True, kw_only=True)
class Widths:
    """How many branches one lane may run at a time: on its event loop, and on its threads."""

    loop: int = 500
    threads: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Width:
    """Why a lane runs so many branches at a time: the least of these, and one at least. None: it did not count.

    Attributes:
        on: where they run.
        setting: as many as the cluster lets a lane run there.
        waiting: as many as keep a process busy, each computing while the others wait, as was learned.
        share: its part of the branches that may run at a time.
        devices: as many as its part of a machine's cores and GPUs is enough for.
        memory: as many as its part of the memory is enough for.
    """

    on: Literal["event loop", "threads"]
    setting: int
    waiting: int | None = None
    share: int | None = None
    devices: int | None = None
    memory: int | None = None

    @property
    def least(self) -> int:
        """The width."""
        told = (self.setting, self.waiting, self.share, self.devices, self.memory)
        return max(1, min(number for number in told if number is not None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """What one track gets, and why. Memory in bytes, times in seconds.

    Alone, it gets the least of ``wanted`` and ``fitting``, and one lane at least.

    Attributes:
        queue: where its lanes go.
        branches: how many branches it has.
        lanes: how many lanes serve it.
        width: branches that one lane runs at a time.
        width_of: what that came from; None where it is one at a time whatever there is.
        lease: branches that a lane takes at a time, at first; one where it runs them on threads or many at a time.
        bound: what keeps the lanes from being more.
        wanted: branches at a time if nothing but the block's own limit counted.
        workers: live workers that may serve it.
        slots: lanes that their pools run at a time.
        cores: how many of those have the cores and GPUs that they need.
        room: lanes that their memory has room for.
        fitting: lanes that have all of these, counted machine by machine.
        memory_available: what their machines can give them now; 70 % of it counts.
        memory_per_node: what one branch is planned with.
        memory_from: where that comes from.
        cpus: cores that one branch was declared to need.
        gpus: GPUs that it was declared to need.
        labels: of the workers that may serve it, each as ``key=value``.
        learned: what is known of its executions.
    """

    queue: str
    branches: int
    lanes: int
    width: int
    width_of: Width | None
    lease: int
    bound: Bound
    wanted: int
    workers: int
    slots: int
    cores: int
    room: int
    fitting: int
    memory_available: int
    memory_per_node: int
    memory_from: Source
    cpus: float | None
    gpus: int
    labels: tuple[str, ...]
    learned: Learned | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The decision for one block: its tracks, and what they share.

    Attributes:
        tracks: what each track gets.
        max_concurrent: the block's own limit.
        workers: live workers that may serve any of them.
        slots: lanes that the pools of those run at a time.
    """

    tracks: tuple[Allocation, ...]
    max_concurrent: int | None
    workers: int
    slots: int

    @property
    def lanes(self) -> int:
        """All lanes of the block."""
        return sum(track.lanes for track in self.tracks)


class _Lane(TypedDict):
    """What one lane takes."""

    memory: int
    cpus: float
    gpus: int


@dataclass(slots=True)
class _Offer:
    """A worker's slots, and the tracks that it may serve."""

    report: Report
    tracks: tuple[int, ...]
    slots: int = field(init=False)

    def __post_init__(self) -> None:
        self.slots = self.report.slots


@dataclass(frozen=True, slots=True)
class _Pool:
    """What may serve one track: the slots of its workers, with the cores, the GPUs, and the memory that they need."""

    workers: int
    slots: int
    cores: int
    gpus: int
    room: int
    lanes: int
    memory: int

    @property
    def bound(self) -> Bound:
        """What keeps the lanes from being more."""
        if self.lanes < self.gpus:
            return "memory"
        return "GPUs" if self.gpus < self.cores else "cores" if self.cores < self.slots else "slots"


class Cluster:
    """The live workers, as plans are made with them; made once for many blocks."""

    def __init__(self, reports: Iterable[Report] = ()) -> None:
        self.reports = tuple(reports)
        # Those that take lanes now: of a queue whose workers are all drained nobody is known yet.
        self._taking = tuple(said for said in self.reports if not said.holds)
        hosts: dict[str, list[Report]] = {}
        for said in self.reports:
            hosts.setdefault(said.host, []).append(said)
        self._hosts = {name: Host.of(workers) for name, workers in hosts.items()}
        self._pools: dict[tuple[str, int, Source, int | None, float | None], _Pool] = {}
        self._of: dict[frozenset[str], tuple[int, int]] = {}
        self._least: dict[tuple[str, int], int] = {}

    def of(self, queues: frozenset[str]) -> tuple[int, int]:
        """How many workers serve one of these queues, and the slots that they have."""
        found = self._of.get(queues)
        if found is None:
            slots = [said.slots for said in self._taking if any(serves(said, queue) for queue in queues)]
            found = self._of[queues] = (len(slots), sum(slots))
        return found

    def least_share(self, queue: str, lanes: int) -> int:
        """The memory, in bytes, that each of so many lanes has at least, whichever workers of a queue they run on.

        As many of them are taken to run on one machine, or in one group, as its workers have slots.
        """
        found = self._least.get((queue, lanes))
        if found is None:
            shared: dict[tuple[str, str | None], tuple[int, int]] = {}
            for said in self._taking:
                if serves(said, queue):
                    machine = [(None, said.machine_total)] if said.machine_total else []
                    for group, total in ((said.group, said.memory_total), *machine):
                        slots, most = shared.get((said.host, group), (0, 0))
                        shared[said.host, group] = slots + said.slots, max(most, int(MEMORY_SHARE * total))
            shares = (most // min(slots, lanes) for slots, most in shared.values())
            found = self._least[queue, lanes] = min(shares, default=0)
        return found

    def most_together(self, queue: str, lanes: int, *, cpus: float, gpus: int) -> float:
        """How many branches of so many cores and GPUs each of so many lanes may run at a time, wherever it runs.

        As many of the lanes are taken to run on one machine, or under one quota, as its workers have slots.
        """
        slots: Counter[tuple[str, str | None]] = Counter()
        cores: dict[tuple[str, str | None], float] = {}
        names: dict[tuple[str, str | None], set[str]] = {}
        for said in self._taking:
            if serves(said, queue):
                machine, group = (said.host, None), (said.host, said.cpu_group)
                slots[machine] += said.slots
                slots[group] += said.slots
                cores[machine] = self._hosts[said.host].cores
                cores[group] = max(said.cores, cores.get(group, 0.0))
                names.setdefault(machine, set()).update(said.gpus)
        parts = [cores[place] / cpus / min(slots[place], lanes) for place in cores] if cpus else []
        parts += [len(names[place]) / gpus / min(slots[place], lanes) for place in names] if gpus else []
        return min(parts, default=math.inf)

    def pool(self, demand: Demand) -> _Pool:
        """What may serve a track."""
        per_node, source = demand.memory_per_node
        key = (demand.queue, per_node, source, demand.memory, demand.cpus)
        found = self._pools.get(key)
        if found is None:
            found = self._pools[key] = self._pool(demand, per_node)
        return found

    def spread(self, demands: Sequence[Demand], wanted: Sequence[int], limit: int | None) -> list[int]:
        """Give the slots of the cluster to several tracks: at least one to each, then by how much each has to do."""
        work = _work(demands)
        lanes = [_Lane(memory=each.memory_per_node[0], cpus=each.cpus or 1.0, gpus=each.gpus) for each in demands]
        offers = [
            _Offer(said, tuple(at for at, each in enumerate(demands) if _is_able(said, each))) for said in self._taking
        ]
        # First those that can serve little else.
        offers.sort(key=lambda offer: (len(offer.tracks), offer.report.worker))
        left = {name: Left(machine) for name, machine in self._hosts.items()}
        given = [0] * len(demands)

        def give(offer: _Offer, track: int) -> None:
            given[track] += 1
            offer.slots -= 1
            left[offer.report.host].take(offer.report, **lanes[track])

        for track in sorted(range(len(demands)), key=lambda track: sum(track in offer.tracks for offer in offers)):
            able = [offer for offer in offers if track in offer.tracks and offer.slots > 0]
            roomy = [offer for offer in able if left[offer.report.host].holds(offer.report, **lanes[track])]
            if able:
                give((roomy or able)[0], track)
        free = min(sum(wanted), limit or sum(wanted)) - sum(given)
        for offer in offers:
            while offer.slots > 0 and free > 0:
                holds, said = left[offer.report.host].holds, offer.report
                open_to = [at for at in offer.tracks if given[at] < wanted[at] and holds(said, **lanes[at])]
                if not open_to:
                    break
                give(offer, max(open_to, key=lambda track: (work[track] / (given[track] + 1), -track)))
                free -= 1
        return [max(1, number) for number in given]

    def _pool(self, demand: Demand, per_node: int) -> _Pool:
        eligible: dict[str, list[Report]] = {}
        for said in self._taking:
            if _is_able(said, demand):
                eligible.setdefault(said.host, []).append(said)
        slots = cores = gpus = room = lanes = memory = 0
        for name, workers in eligible.items():
            machine = self._hosts[name]
            with_cores = machine.with_cores(workers, demand.cpus or 1.0)
            with_gpus = min(with_cores, machine.with_gpus(workers, demand.gpus)) if demand.gpus else with_cores
            slots, cores, gpus = slots + sum(said.slots for said in workers), cores + with_cores, gpus + with_gpus
            room += machine.room(workers, per_node)
            lanes += min(with_gpus, machine.with_memory(workers, per_node))
            memory += machine.memory(workers)
        return _Pool(sum(map(len, eligible.values())), slots, cores, gpus, room, lanes, memory)


def plan(
    demands: Sequence[Demand],
    cluster: Cluster,
    *,
    max_concurrent: int | None = None,
    optimize: bool = True,
    widths: Widths | None = None,
) -> Plan:
    """Decide how the branches of a block are served.

    For one track this is ``min(max_concurrent or branches, cores available, 0.70 x available memory / memory per
    node)``, at least one. A machine's cores are offered as its workers' pool slots, so an operator who gave a worker
    more or fewer slots than cores is respected; workers on one machine share its memory. Several tracks share what
    there is.

    Args:
        demands: the block's tracks.
        cluster: the live workers.
        max_concurrent: the block's own limit.
        optimize: False for as many lanes as branches, each of width 1.
        widths: how many branches a lane may run at a time.
    """
    demands = [_placed(cluster, demand) for demand in demands]
    pools = [cluster.pool(demand) for demand in demands]
    wanted = [min(max_concurrent or demand.branches, demand.branches) for demand in demands]
    alone = [_alone(pool, most) for pool, most in zip(pools, wanted, strict=True)]
    lanes = wanted if not optimize else [number for number, _ in alone]
    if optimize and len(demands) > 1:
        together = cluster.spread(demands, lanes, max_concurrent)
        lanes = [
            min(own, shared) if pool.workers else own for own, shared, pool in zip(lanes, together, pools, strict=True)
        ]
    is_large = sum(demand.branches for demand in demands) > FEW
    tracks = []
    for number, (demand, pool) in enumerate(zip(demands, pools, strict=True)):
        own, bound = alone[number]
        per_node, source = demand.memory_per_node
        track = Allocation(
            queue=demand.queue,
            branches=demand.branches,
            lanes=max(1, lanes[number]),
            width=1,
            width_of=None,
            lease=1,
            bound="not optimized" if not optimize else "other tracks" if lanes[number] < own else bound,
            wanted=wanted[number],
            workers=pool.workers,
            slots=pool.slots,
            cores=pool.gpus,
            room=pool.room,
            fitting=pool.lanes,
            memory_available=pool.memory,
            memory_per_node=per_node,
            memory_from=source,
            cpus=demand.cpus,
            gpus=demand.gpus,
            labels=tuple(sorted(needs.of(demand.queue).labels)),
            learned=demand.learned,
        )
        if max_concurrent is not None and track.bound == "branches" and max_concurrent < demand.branches:
            track = replace(track, bound="max_concurrent")
        if optimize:
            of = _width(demand, track, widths or Widths(), cluster, beside=sum(lanes) - lanes[number])
            width = 1 if of is None else of.least
            track = replace(track, width=width, width_of=of)
            is_alone = width == 1 and (of is None or of.on == "event loop")
            if is_alone and is_large and leases_many(batched=demand.batched, limited=demand.limited):
                track = replace(track, lease=min(first_lease(demand.learned), _fair_share(track)))
        tracks.append(track)
    workers, slots = cluster.of(frozenset(demand.queue for demand in demands))
    return Plan(tracks=tuple(tracks), max_concurrent=max_concurrent, workers=workers, slots=slots)


def is_believed(known: Learned) -> bool:
    """Whether it is of so many executions that a branch is treated by it."""
    return known.executions >= _BELIEVED


def leases_many(*, batched: bool, limited: bool) -> bool:
    """Whether a lane that runs one branch at a time takes many, as `Demand` has it."""
    # With a limit of very many keys, a branch is leased without a place, and waits for one by itself.
    return batched and not limited


def first_lease(known: Learned | None) -> int:
    """How many branches last as long as a lease shall: one where nothing is known."""
    if known is None or not is_believed(known):
        return 1
    return max(1, int(_LEASE / (known.wall + _OWN)))


def _fair_share(track: Allocation) -> int:
    # As `serve.lua` shares what is left: ever less, so that all lanes end at about the same time.
    return math.ceil(track.branches / (2 * track.lanes))


def misfit(cluster: Cluster, queue: str, *, memory: int | None, cpus: float | None) -> str | None:
    """Why no live worker of a queue has what a node was declared to need; None where one does.

    A queue that nobody serves now refuses nothing: its workers may come, and those that take no lanes now come back.
    """
    needed = needs.of(queue)
    serving = [said for said in cluster.reports if needed.queue in said.queues]
    if all(said.holds for said in serving) or any(
        serves(said, queue) and _fits(said, memory, cpus) for said in serving
    ):
        return None
    nearest = max(
        serving,
        key=lambda said: (-_lacks(said, needed), _fits(said, memory, None), said.memory_total, said.cores, said.worker),
    )
    least, most = needs.declared(memory, cpus)
    memory, cpus = max(least, needed.most_memory), max(most, needed.cpus)
    wants, has = [], []
    if needed.labels:
        wants.append(_labelled(needed.labels))
        has.append(_labelled(nearest.labels))
    if needed.gpus:
        wants.append(_gpus(needed.gpus))
        has.append(_gpus(len(nearest.gpus)))
    if memory:
        wants.append(f"{size(memory)} of memory")
        usable = size(budget(nearest))
        has.append(f"{usable} of memory ({MEMORY_SHARE:.0%} of {size(nearest.memory_total)})")
    if cpus:
        wants.append(f"{cpus:g} cores")
        has.append(f"{nearest.cores:g} cores")
    which, cure = "largest", "declare less, or start a larger worker"
    if needed.labels or needed.gpus:
        which = "nearest"
        if _lacks(nearest, needs.of(needs.without_sizes(queue))):
            cure = f"start one that has it with `{command_for(queue)}`"
    return (
        f"needs {' and '.join(wants)}, and the {which} worker of queue {needed.queue!r}, {nearest.worker!r}, "
        f"has {' and '.join(has)}: {cure}"
    )


def roomy(cluster: Cluster, queue: str, memory: int) -> str:
    """The queue of lanes of a queue of which a branch was seen to need so much memory.

    Where no worker has it, that is the one of those that have most. It is the queue itself where that is no more than
    each worker is taken to have, or nobody serves it.
    """
    plain = needs.with_learned(queue, 0)
    budgets = [budget(said) for said in cluster.reports if serves(said, plain)]
    enough = [each for each in budgets if each >= memory]
    most = min(_rounded(memory), min(enough)) if enough else max(budgets, default=0)
    return needs.with_learned(plain, most) if min(memory, most) > MEMORY_PER_NODE else plain


def _rounded(memory: int) -> int:
    # Up to one of four sizes an octave, so that there are few such queues whatever is learned.
    unit: int = 2 ** max(0, memory.bit_length() - 3)
    return -(-memory // unit) * unit


def command_for(queue: str) -> str:
    """The command that starts a worker which serves a queue."""
    needed = needs.of(queue)
    options = [f"-q {needed.queue}", *(f"--label {label}" for label in sorted(needed.labels))]
    options += [f"--gpus {needed.gpus}"] if needed.gpus else []
    return " ".join(["egregore-dist worker", *options])


def _labelled(labels: Iterable[str]) -> str:
    found = sorted(labels)
    return f"label{'' if len(found) == 1 else 's'} {', '.join(found)}" if found else "no label"


def _gpus(number: int) -> str:
    return f"{number or 'no'} GPU{'' if number == 1 else 's'}"


def _placed(cluster: Cluster, demand: Demand) -> Demand:
    per_node, source = demand.memory_per_node
    is_seen = source in ("learned", "after OOM")
    return replace(demand, queue=roomy(cluster, demand.queue, per_node)) if is_seen else demand


def _alone(pool: _Pool, wanted: int) -> tuple[int, Bound]:
    # What a track would get if it were the only one.
    if not pool.workers:
        return (wanted, "branches") if wanted <= UNSEEN else (UNSEEN, "no worker")
    lanes = max(1, min(wanted, pool.lanes))
    return lanes, "branches" if lanes >= wanted else pool.bound


def _work(demands: Sequence[Demand]) -> list[float]:
    # How long each track would take a lane: by time where that is known of all, else by number.
    walls = [demand.learned.wall if demand.learned is not None else 0.0 for demand in demands]
    if not all(walls):
        walls = [1.0] * len(demands)
    return [
        demand.branches * wall * (_OF_ASYNC if demand.is_async else 1.0)
        for demand, wall in zip(demands, walls, strict=True)
    ]


def _width(demand: Demand, track: Allocation, widths: Widths, cluster: Cluster, *, beside: int) -> Width | None:
    if demand.is_async:
        found = Width(on="event loop", setting=widths.loop)
    elif demand.io and widths.threads > 1:
        waiting, share = keep_busy(demand.learned, widths.threads), math.ceil(track.wanted / track.lanes)
        found = Width(on="threads", setting=widths.threads, waiting=waiting, share=share)
    else:
        return None
    if not track.workers:
        return found
    # Lanes of other tracks may run beside them, on each of the workers.
    lanes = min(track.lanes + beside, max(track.lanes, track.slots))
    # Each of them takes the cores and GPUs that it was declared to need.
    together = cluster.most_together(track.queue, track.lanes, cpus=demand.cpus or 0.0, gpus=demand.gpus)
    if together < math.inf:
        found = replace(found, devices=int(together + host.ROUNDED))
    # And its memory; what is only assumed for a process is not taken by each of its branches.
    if track.memory_from == "assumed":
        return found
    least = min(MEMORY_SHARE * track.memory_available / lanes, cluster.least_share(track.queue, lanes))
    return replace(found, memory=int(least / track.memory_per_node))


def keep_busy(known: Learned | None, most: int) -> int | None:
    """How many branches on threads keep a process busy, at most ``most``: while one waits, the others compute.

    None where too little is known of them.
    """
    if known is None or not known.cpu:
        return None
    # Of next to no time on a core, the ratio may be infinite.
    return int(max(1.0, min(most, 1.0 + known.waits / known.cpu)))


def serves(said: Report, queue: str) -> bool:
    """Whether a worker serves a queue: it consumes the one that it was derived from, and has what its name asks for."""
    if queue in said.queues:
        return True
    needed = needs.of(queue)
    return needed.queue in said.queues and not _lacks(said, needed)


def _lacks(said: Report, needed: needs.Needs) -> int:
    # How many of the things that a queue's name asks for a worker does not have.
    has_size = needed.most_memory <= budget(said) and needed.cpus <= said.cores
    return len(needed.labels.difference(said.labels)) + (needed.gpus > len(said.gpus)) + (not has_size)


def budget(said: Report) -> int:
    """The memory that a worker may give to lanes, in bytes."""
    return int(MEMORY_SHARE * said.memory_total)


def _is_able(said: Report, demand: Demand) -> bool:
    return serves(said, demand.queue) and _fits(said, demand.memory, demand.cpus)


def _fits(said: Report, memory: int | None, cpus: float | None) -> bool:
    least, most = needs.declared(memory, cpus)
    return least <= budget(said) and most <= said.cores


def size(count: float) -> str:
    """An amount of memory as people read it."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
