"""The way from a built workflow to the client that runs it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from egregore_dist.client.plans import BlockPlan
    from egregore_dist.client.run import Run
    from egregore_dist.workflow.step import Step


class Launcher(Protocol):
    """What runs steps: the client, in all but tests."""

    def run(self, step: Step, data: Any, progress: bool | None) -> Any:
        """Run ``step`` on ``data``, wait, and return its value."""

    def submit(self, step: Step, data: Any, id: str | None) -> Run:
        """Start a run of ``step`` on ``data`` and return at once."""

    def submit_on_commit(self, step: Step, data: Any, id: str | None, using: str | None) -> str:
        """Start a run of ``step`` on ``data`` when the transaction of a Django database commits; return its id."""

    async def arun(self, step: Step, data: Any) -> Any:
        """Run ``step`` on ``data`` without blocking the event loop, and return its value."""

    def plan(self, step: Step, items: int) -> BlockPlan:
        """How the block ``step`` would be served now; a map is assumed to get so many items."""


def current() -> Launcher:
    """The client's launcher."""
    # By name and on demand: building a workflow must not import Celery, and imports of the layers go one way.
    return cast("Launcher", importlib.import_module("egregore_dist.client.launch").launcher)
