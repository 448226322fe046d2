"""What one process learns of functions, and what all have learned: kept in the ledger, and planned with."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping

from egregore_dist import errors
from egregore_dist.engine.compile import Knows
from egregore_dist.engine.later import Later
from egregore_dist.ledger import Ledger
from egregore_dist.ledger.profiles import Profiles
from egregore_dist.resources import chains, profile, router
from egregore_dist.resources.chains import Chain
from egregore_dist.resources.profile import Learned
from egregore_dist.resources.recorder import Recorder

log = logging.getLogger(__name__)

# What was recorded is kept after so many seconds, and what was read is read again after so many. What a process first
# records, and what was not known, sooner (ever later while it is not): a new workflow is not planned blindly for long.
_KEEP_AFTER, _FRESH, _SOON = 1.0, 2.0, 0.1
_ANSWERS_KEPT = 256

_Question = tuple[tuple[Chain[str], int], ...]


class Learning:
    """The learning of one process.

    Args:
        later: writes to the ledger off the lane's thread.
        alone: executions have this process for themselves.
    """

    def __init__(self, ledger: Ledger, later: Later, *, alone: bool) -> None:
        self.recorder = Recorder(self._keep_later, alone=alone)
        self._profiles = Profiles(ledger)
        self._later = later
        # With when each was found, and for how long it is believed.
        self._answers: dict[_Question, tuple[float, float, Learned | None]] = {}
        self._lock = threading.Lock()
        self._has_kept = False

    def of(self, functions: tuple[str, ...]) -> Knows:
        """Answers what is known of the branches of a workflow with these functions, at most two seconds old.

        That too little is known is a tenth of a second old at first.
        """

        def knows(branches: Mapping[Chain[int], int]) -> Learned | None:
            return self._answer(_named(functions, branches))

        return knows

    def _answer(self, question: _Question) -> Learned | None:
        known = self._answers.get(question)
        if known is not None and time.monotonic() - known[0] < known[1]:
            return known[2]
        found = _look_up(self._profiles, question)
        lasts = _FRESH
        if found is None or not router.is_believed(found):
            lasts = _SOON if known is None else min(2 * known[1], _FRESH)
        with self._lock:
            if len(self._answers) >= _ANSWERS_KEPT:
                self._answers.clear()
            self._answers[question] = (time.monotonic(), lasts, found)
        return found

    def _keep_later(self) -> None:
        self._later.put("what was learned", _KEEP_AFTER if self._has_kept else _SOON, self._keep)

    def _keep(self) -> None:
        self._has_kept = True
        try:
            self._profiles.learn(self.recorder.take())
        except errors.BrokerUnavailable as error:
            # What is learned is never worth a failure: it will be learned again.
            log.info("what was learned is not kept: %s", error, extra={"action": "not_learned"})


def knowing(profiles: Profiles, functions: tuple[str, ...]) -> Knows:
    """Answers what is known of the branches of a workflow with these functions, now."""
    return lambda branches: _look_up(profiles, _named(functions, branches))


def _named(functions: tuple[str, ...], branches: Mapping[Chain[int], int]) -> _Question:
    return tuple((chains.named(chain, functions), n) for chain, n in branches.items())


def _look_up(profiles: Profiles, question: _Question) -> Learned | None:
    branches = dict(question)
    return profile.of_branches(
        branches, profiles.read({name for chain in branches for name in chains.functions(chain)})
    )
