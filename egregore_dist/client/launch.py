"""Submit workflows: what ``flow(data)``, ``.run``, ``.submit`` and ``.arun`` do."""

from __future__ import annotations

import asyncio
import contextvars
import datetime as dt
import importlib
import uuid
from contextlib import nullcontext
from functools import partial
from typing import Any

from egregore_dist import errors
from egregore_dist.client import plans, session
from egregore_dist.client.plans import BlockPlan
from egregore_dist.client.run import Run
from egregore_dist.engine import compile as compiler
from egregore_dist.engine import inside, publish
from egregore_dist.ledger import Accepted, Work
from egregore_dist.wire import codec, digest, tracing
from egregore_dist.wire.code import encode_references, ship
from egregore_dist.workflow import describe, names
from egregore_dist.workflow.binding import Parameters
from egregore_dist.workflow.launcher import Launcher
from egregore_dist.workflow.step import Step


class ClusterLauncher:
    """Submits to the current session's cluster."""

    def run(self, step: Step, data: Any, progress: bool | None) -> Any:
        """Submit, wait, return the value or raise."""
        _refuse_inside(step)
        return self._accepted(step, data, None, waits=True).result(progress=progress)

    def submit(self, step: Step, data: Any, id: str | None) -> Run:
        """Submit, and return at once. The same id again returns the run that has it."""
        return self._accepted(step, data, id, waits=False)

    def submit_on_commit(self, step: Step, data: Any, id: str | None, using: str | None) -> str:
        """Submit when a transaction of Django's commits. What is wrong with the input is told now."""
        transaction = _transactions(step)
        described = _checked(step, data, id)
        raw = codec.encode(data, where=f"the input of workflow {described.spec.name!r}")
        run = id or uuid.uuid4().hex
        transaction.on_commit(lambda: self.submit(step, codec.decode(raw), run), using=using)
        return run

    def _accepted(self, step: Step, data: Any, id: str | None, *, waits: bool) -> Run:
        described = _checked(step, data, id)
        to = session.current()
        to.refuse_unfit_server()
        settings = to.settings
        if to.embedded and described.queues:
            _refuse_unserved(described, to)
        if described.has_needs:
            compiler.refuse_misfits(described.spec.root, settings.queue, plans.cluster_of(to))
        raw = codec.encode(data, where=f"the input of workflow {described.spec.name!r}", limit=settings.payload_limit)
        if described.maps and not codec.has_entries(raw):
            raise errors.BindingError(
                f"map {described.maps[0]!r} runs once for each item of a list or a mapping, but was given a value of "
                f"type {type(data).__name__}"
            )
        shipped = [ship(fn, to.signer) for fn in described.functions]
        run = id or uuid.uuid4().hex
        its_digest = "" if id is None else digest.of(data)
        queue = compiler.queue_of(described.spec.root, settings.queue)
        tracer = tracing.tracer()
        with tracer.submitting(run, described.spec.name) if tracer is not None else nullcontext():
            accepted = to.ledger.submit(
                run,
                Work(
                    workflow=described.spec.name,
                    spec=described.encoded,
                    functions=encode_references([code.ref for code in shipped], to.signer),
                    queue=settings.queue,
                    trace=tracing.here(),
                ),
                code={code.ref[2:]: code.blob for code in shipped if code.blob is not None},
                input=raw,
                queue=queue,
                digest=its_digest,
            )
            # Those who trace messages see where it comes from.
            within = contextvars.copy_context()
        if not accepted.new:
            _refuse_differences(run, accepted, described.spec.name, its_digest, is_named=step.name is not None)
        made = Run(run, of=to, result_type=describe.result_type(step), epoch=accepted.epoch, created=accepted.created)
        if accepted.waits:
            advance = partial(
                within.run,
                publish.advance,
                to.app,
                run,
                queue,
                name=described.spec.name,
                created=accepted.created,
            )
            if waits:
                # A thread of its own would first have to wait until this one lets go of the interpreter.
                made._publish(advance)
            else:
                # The run is accepted; that its message is on its way need not be waited for.
                to.later.put(run, 0.0, advance)
        return made

    async def arun(self, step: Step, data: Any) -> Any:
        """Submit, wait without holding the event loop, return the value or raise."""
        _refuse_inside(step)
        return await (await asyncio.to_thread(self._accepted, step, data, None, waits=True))

    def plan(self, step: Step, items: int) -> BlockPlan:
        """How a block would be served now."""
        found = plans.of_workflow(step, items, session.current())
        if not found:
            raise errors.WorkflowError(
                f"{describe.describe(step).spec.name!r} has no branches: nothing is to be planned"
            )
        return found[0]


def _checked(step: Step, data: Any, id: str | None) -> describe.Described:
    """The workflow of a step; before anything is published, its id is checked, and what its first nodes get."""
    if id is not None and not names.is_valid(id):
        raise errors.WorkflowError(
            f"run id {id!r}: letters, digits, '_', '.' and '-' only, 1 to 128 of them, and not '.' or '..'"
        )
    described = describe.describe(step)
    for name, fn in described.heads:
        Parameters.of(fn).check(name, data)
    return described


def _transactions(step: Step) -> Any:
    # By name: Django is no dependency.
    try:
        configured = importlib.import_module("django.conf").settings
        # Raises where no settings are named.
        _ = configured.DATABASES
        return importlib.import_module("django.db.transaction")
    except Exception as cause:
        raise errors.ConfigurationError(
            f"{describe.describe(step).spec.name!r}.submit_on_commit needs a Django project: {type(cause).__name__}: "
            f"{cause} Set DJANGO_SETTINGS_MODULE, or use .submit() where there is no transaction"
        ) from cause


def _refuse_differences(run: str, existing: Accepted, workflow: str, its_digest: str, *, is_named: bool) -> None:
    """Raise `RunExists` where the run that has the id already is not the one that was to be submitted."""
    differs = []
    if existing.workflow != workflow:
        differs.append("workflow")
    # A run whose id was not chosen has no digest.
    if existing.digest not in ("", its_digest):
        differs.append("input")
    if not differs:
        return
    what = f"run {run!r} exists already, with another {' and another '.join(differs)}"
    asked = f", not {workflow!r}" if "workflow" in differs else ""
    same = ""
    if "workflow" in differs and not is_named:
        same = (
            f". {workflow!r} is made up, because the workflow was given no name. If it is the same workflow with other "
            f"steps, give it the name of the existing run: .alias({existing.workflow!r})"
        )
    at = dt.datetime.fromtimestamp(existing.created / 1000, dt.UTC).isoformat(" ", "seconds")
    raise errors.RunExists(
        f"{what}: it is a run of workflow {existing.workflow!r}{asked}, submitted at {at}, and {existing.state}. "
        f"Submit other work under another id; Run({run!r}) is the existing run{same}",
        run_id=run,
        workflow=existing.workflow,
        state=existing.state,
        submitted=existing.created / 1000,
        differs=differs,
    )


def _refuse_unserved(described: describe.Described, to: session.Session) -> None:
    """Refuse a workflow with a queue that no worker of this program's own cluster serves: it would wait for ever."""
    served = {queue for said in plans.cluster_of(to).reports for queue in said.queues} | {to.settings.queue}
    for queue in sorted(described.queues - served):
        raise errors.WorkflowError(
            f"workflow {described.spec.name!r} has nodes with queue={queue!r}, which no worker of the cluster that "
            "this program has started for itself serves: leave queue= out, or set EGREGORE_BROKER_URL to a cluster "
            f"where `egregore-dist worker -q {queue}` runs"
        )


def _refuse_inside(step: Step) -> None:
    node = inside.caller()
    if node is not None:
        raise errors.NestedWaitError(
            f"{node} runs workflow {describe.describe(step).spec.name!r} and waits for it, so it would hold the "
            "slot that it needs: put it into the workflow of this node (`this >> those`), or .submit() and do not wait"
        )


launcher: Launcher = ClusterLauncher()
