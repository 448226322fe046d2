"""The names of the ledger's keys. The scripts in ``lua/`` build those of a run from its own key."""

from __future__ import annotations

from dataclasses import dataclass

ROOT = "0"


@dataclass(frozen=True, slots=True)
class Keys:
    """Key names under one prefix; the keys of a run share the hash tag ``{run}``."""

    prefix: str

    @property
    def agenda(self) -> str:
        return f"{self.prefix}:agenda"

    @property
    def runs(self) -> str:
        return f"{self.prefix}:runs"

    @property
    def epoch(self) -> str:
        """A random word that is lost when the server's data are, see ``submit.lua``."""
        return f"{self.prefix}:epoch"

    @property
    def janitor(self) -> str:
        """The janitor that leads."""
        return f"{self.prefix}:janitor"

    @property
    def evictions(self) -> str:
        """What is known of keys that the server has evicted, see ``due.lua``."""
        return f"{self.prefix}:evictions"

    @property
    def aside(self) -> str:
        """Messages that could not be served, newest first."""
        return f"{self.prefix}:aside"

    @property
    def profiles(self) -> str:
        """What was learned of functions, see ``learn.lua``."""
        return f"{self.prefix}:profiles"

    @property
    def counts(self) -> str:
        """The series that have been counted, see ``_counts.lua``."""
        return f"{self.prefix}:counts"

    def counts_of(self, series: str) -> str:
        """What was counted of the runs of one series."""
        return f"{self.counts}:of:{series}"

    @property
    def counts_of_cluster(self) -> str:
        """What was counted that belongs to no workflow."""
        return f"{self.counts}:cluster"

    @property
    def limits(self) -> str:
        """The limits that code declares, by name; see ``_limits.lua``."""
        return f"{self.prefix}:limits"

    @property
    def limits_set(self) -> str:
        """Those that were set by hand."""
        return f"{self.prefix}:limits:set"

    @property
    def limits_due(self) -> str:
        """The buckets of limits that a janitor looks after, and when."""
        return f"{self.prefix}:limits:due"

    def limit(self, kind: str, bucket: str) -> str:
        """``h`` holders, ``w`` what waits, ``r`` the rate of a bucket; ``k`` the buckets of a limit with a key."""
        return f"{self.prefix}:limit:{kind}:{bucket}"

    def machine(self, host: str) -> str:
        """What lanes that need much of a machine have of it, see ``room.lua``."""
        return f"{self.prefix}:machine:{host}"

    @property
    def queues(self) -> str:
        """The derived queues that lanes are sent to, see ``_common.lua``."""
        return f"{self.prefix}:queues"

    @property
    def workers(self) -> str:
        return f"{self.prefix}:workers"

    def worker(self, name: str) -> str:
        return f"{self.prefix}:worker:{name}"

    def run(self, run: str) -> str:
        return f"{self.prefix}:{{{run}}}"

    def part(self, run: str, part: str) -> str:
        """``code``, ``blocks``, ``open``, ``end``, ``events``, ``log``, ``said`` or ``waits`` of a run."""
        return f"{self.run(run)}:{part}"

    def block(self, run: str, kind: str, block: str) -> str:
        """``b`` record, ``i`` input, ``l`` leases, ``r`` results or ``e`` failures of a block."""
        return f"{self.run(run)}:{kind}:{block}"


def child(parent: str, branch: int, path: tuple[int, ...]) -> str:
    """The id of the block at ``path`` that ``branch`` of ``parent`` meets: the same whoever opens it."""
    return f"{parent}.{branch}-{','.join(map(str, path))}"
