"""What the pages show: each is made from the ledger anew."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

from redis.exceptions import NoPermissionError, RedisError
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, RedirectResponse, Response

from egregore_dist import errors
from egregore_dist.cli import limits as told
from egregore_dist.cli.logs import LEVELS
from egregore_dist.client.logs import Wanted
from egregore_dist.client.run import Run
from egregore_dist.client.session import Session as ClusterSession
from egregore_dist.client.workers import Workers
from egregore_dist.ledger import ENDED, browse, lanes, runlist
from egregore_dist.ledger.limits import OTHERS, Known
from egregore_dist.monitor import failures, lists, logs, timelines, values, words
from egregore_dist.monitor.guard import QUERY_LIMIT, Answer, Asked
from egregore_dist.monitor.lists import Filters
from egregore_dist.monitor.metrics import Metrics
from egregore_dist.monitor.nodes import Nodes, Order
from egregore_dist.monitor.runview import Reader
from egregore_dist.monitor.sessions import Session
from egregore_dist.monitor.users import Role
from egregore_dist.monitor.workers import machines
from egregore_dist.resources.report import Report
from egregore_dist.workflow.spec import Path

log = logging.getLogger(__name__)

#: Branches and blocks on a page, lanes of a worker, and runs that one form may change.
BRANCHES_SHOWN = 100
BLOCKS_SHOWN = 100
LANES_SHOWN = 20
BULK_AT_MOST = 200

# Of a number in a form.
_DIGITS = 9

_ACTIONS: Mapping[str, Callable[[Run], str]] = {
    "cancel": Run.cancel,
    "pause": Run.pause,
    "resume": Run.resume,
    "retry": Run.retry,
}

# States of runs that a retry changes.
_RETRIED = ("failed", "cancelled")

_WORKER_ACTIONS: Mapping[str, Callable[[Workers, str], Report]] = {
    "worker_drain": Workers.drain,
    "worker_resume": Workers.resume,
    "worker_stop": Workers.stop,
}

_LACKS_RIGHT = (
    "The monitor's user of the server lacks the right to do this: egregore-viewer may only read. To use the buttons, "
    "start the monitor as egregore-operator (deploy/acl)."
)

_TITLES = {
    400: "Not understood",
    401: "Log in",
    403: "Not allowed",
    404: "Not found",
    413: "Too large",
    414: "Too long",
    422: "Not readable",
    429: "Too many tries",
    500: "Something went wrong",
    503: "Not reachable",
}


class Pages:
    """Makes the pages of one cluster.

    Args:
        cluster: which.
        asks_for_name: whether somebody logs in with a name, and not only with the token.
        has_links: whether a link lets in who follows it.
    """

    def __init__(self, cluster: ClusterSession, *, asks_for_name: bool, has_links: bool = False) -> None:
        self._cluster = cluster
        self._ledger = cluster.ledger
        self._reader = Reader(cluster.ledger, cluster.settings)
        self._metrics = Metrics(cluster.ledger, cluster.settings.queue)
        self._known_nodes = Nodes(cluster.ledger, cluster.settings.thread_width)
        self._templates = words.templates()
        self._asks_for_name = asks_for_name
        self._has_links = has_links

    def answers(self) -> dict[str, Answer]:
        """What answers each route, by its name."""
        made: dict[str, Callable[[Asked], Response]] = {
            "style": lambda asked: _static("monitor.css"),
            "icon": lambda asked: _static("icon.svg"),
            "script": lambda asked: _static("monitor.js"),
            "runs": self._runs,
            "run": self._run,
            "blocks": self._blocks,
            "block": self._block,
            "branch": self._branch,
            "value": self._value,
            "logs": self._logs,
            "workers": self._workers,
            "nodes": self._nodes,
            "limits": self._limits,
            "limit": self._limit,
            "aside": self._aside,
            "metrics": self._count,
            "bulk": self._bulk,
            "delete": self._delete,
            "set_limit": self._set_limit,
            "clear_limit": self._clear_limit,
            **dict.fromkeys(_ACTIONS, self._act),
            **dict.fromkeys(_WORKER_ACTIONS, self._act_on_worker),
        }
        return {name: self._answering(make) for name, make in made.items()}

    def refuse(self, status: int, text: str, session: Session | None, address: str) -> Response:
        """The page of a refusal; where it is that nobody is logged in, the form to do so and go on to the address."""
        path, title = address.partition("?")[0], _TITLES.get(status, "")
        page = self._page("refused.html", session, path, address=address, status=status, title=title, text=text)
        page.status_code = status
        return page

    def _answering(self, make: Callable[[Asked], Response]) -> Callable[[Asked], Awaitable[Response]]:
        def safely(asked: Asked) -> Response:
            try:
                return make(asked)
            except (errors.RunNotFound, errors.WorkerNotFound, _NoLimit) as error:
                return self.refuse(404, str(error), asked.session, asked.path)
            except errors.UnreadableWorkflow as error:
                return self.refuse(422, str(error), asked.session, asked.path)
            except errors.BrokerUnavailable as error:
                log.warning("monitor: %s", error, extra={"action": "ledger_unreachable"})
                return self.refuse(503, "The ledger cannot be reached. Is its server up?", asked.session, asked.path)
            except NoPermissionError as error:
                log.warning("monitor: %s", error, extra={"action": "ledger_refused"})
                return self.refuse(403, _LACKS_RIGHT, asked.session, asked.path)
            except RedisError as error:
                log.warning("monitor: %s", type(error).__name__, extra={"action": "ledger_refused"})
                return self.refuse(503, "The ledger's server has refused this.", asked.session, asked.path)

        async def answer(asked: Asked) -> Response:
            return await run_in_threadpool(safely, asked)

        return answer

    def _page(self, template: str, session: Session | None, path: str, **more: Any) -> HTMLResponse:
        role = 0 if session is None else session.user.role
        text = self._templates.get_template(template).render(
            session=session,
            path=path,
            asks_for_name=self._asks_for_name,
            has_links=self._has_links,
            may_operate=role >= Role.OPERATOR,
            may_administrate=role >= Role.ADMIN,
            **{"stream": "", **more},
        )
        return HTMLResponse(text)

    def _show(self, template: str, asked: Asked, **more: Any) -> Response:
        return self._page(template, asked.session, asked.path, **more)

    # Pages

    def _runs(self, asked: Asked) -> Response:
        filters = Filters.of(asked.query)
        page = runlist.find(self._ledger, filters.wanted, limit=lists.RUNS_SHOWN)
        return self._show(
            "runs.html",
            asked,
            stream="" if filters.before else filters.address().replace("/", "/events", 1),
            filters=filters,
            states=lists.STATES,
            page=page,
            known=runlist.known(self._ledger),
            now=self._ledger.now() / 1000,
            older=None if page.next is None else filters.address(page.next),
            newest=filters.address(),
            done=asked.query.get("done", ""),
            changed=_number(asked.query.get("changed")),
            chosen=_number(asked.query.get("chosen")),
            has_workers=bool(page.runs) or bool(self._ledger.reports()),
        )

    def _run(self, asked: Asked) -> Response:
        run = asked.parts["run"]
        view = self._reader.run(run, lambda path: _blocks_address(run, path))
        state = view.record.state
        return self._show(
            "run.html",
            asked,
            stream=_stream(run, view.cursor),
            view=view,
            record=view.record,
            can_cancel=state not in ENDED,
            can_pause=state in ("pending", "running"),
            can_resume=state == "paused",
            can_retry=state in _RETRIED,
            can_delete=state in ENDED,
        )

    def _blocks(self, asked: Asked) -> Response:
        run = asked.parts["run"]
        record = self._ledger.run(run)
        path = _path(asked.query.get("path"))
        page = _number(asked.query.get("page"))
        found = browse.blocks(self._ledger, run, limit=BLOCKS_SHOWN, offset=page * BLOCKS_SHOWN, path=path)
        total = sum(found.counts.values()) if path is None else found.counts.get(path, 0)
        if total == 1 and found.shown:
            return RedirectResponse(f"/runs/{words.segment(run)}/blocks/{words.segment(found.shown[0].id)}", 303)
        namer = self._reader.namer(record, self._reader.workflow(record), found.shown)
        return self._show(
            "blocks.html",
            asked,
            stream=_stream(run),
            record=record,
            now=self._ledger.now() / 1000,
            blocks=found.shown,
            branch={block.id: self._reader.nested_in(block, namer) for block in found.shown},
            total=total,
            pages=_Pages(page, BLOCKS_SHOWN, total, {"path": asked.query.get("path", "")}),
        )

    def _block(self, asked: Asked) -> Response:
        run = asked.parts["run"]
        record = self._ledger.run(run)
        block = browse.block(self._ledger, run, asked.parts["block"])
        page = _number(asked.query.get("page"))
        only_failed = asked.query.get("only") == "failed"
        if only_failed:
            failed = browse.failed(self._ledger, run, block.id)
            total, positions = len(failed), failed[page * BRANCHES_SHOWN : (page + 1) * BRANCHES_SHOWN]
        else:
            total = block.n
            positions = list(range(page * BRANCHES_SHOWN, min(total, (page + 1) * BRANCHES_SHOWN)))
        rows = browse.branches(self._ledger, run, block, positions)
        workflow = self._reader.workflow(record)
        namer = self._reader.namer(record, workflow, [block])
        with self._reader.timelines.read(run, record.created) as timeline:
            timeline.learn(record, [block])
            times = {row.position: timelines.times(timeline, block, row) for row in rows}
            partial, cursor = timeline.known(block.id) if timeline.lacks(block.id) else None, timeline.cursor
        now = self._ledger.now() / 1000
        return self._show(
            "block.html",
            asked,
            stream=_stream(run, cursor),
            record=record,
            block=block,
            now=now,
            rows=[(row, namer(block.id, row.position), *times[row.position]) for row in rows],
            partial=partial,
            total=total,
            only_failed=only_failed,
            pages=_Pages(page, BRANCHES_SHOWN, total, {"only": "failed" if only_failed else ""}),
        )

    def _branch(self, asked: Asked) -> Response:
        run, position = asked.parts["run"], int(asked.parts["branch"])
        record, block = self._found(asked)
        (row,) = browse.branches(self._ledger, run, block, [position])
        lines = self._lines_of(asked, position)
        namer = self._reader.namer(record, self._reader.workflow(record), [block])
        with self._reader.timelines.read(run, record.created) as timeline:
            timeline.learn(record, [block])
            attempts = list(timeline.attempts.get((block.id, position), ()))
            partial, cursor = timeline.lacks(block.id), timeline.cursor
        return self._show(
            "branch.html",
            asked,
            stream=_stream(run, cursor) if lines is None else f"{_stream_of_lines(run, lines)}&events={cursor}",
            record=record,
            block=block,
            row=row,
            name=namer(block.id, position),
            attempts=attempts,
            partial=partial,
            why=failures.of_branch(self._ledger, run, block.id, position) if row.failure else None,
            lines=lines,
            logs_address=logs.Filters(block=block.id, branch=str(position)).address(run),
            now=self._ledger.now() / 1000,
        )

    def _logs(self, asked: Asked) -> Response:
        run, filters = asked.parts["run"], logs.Filters.of(asked.query)
        record = self._ledger.run(run)
        lines = logs.lines(self._ledger, run, filters.wanted, before=filters.before)
        return self._show(
            "logs.html",
            asked,
            stream="" if filters.before else _stream_of_lines(run, lines),
            record=record,
            filters=filters,
            levels=LEVELS,
            lines=lines,
            older=filters.address(run, lines.older) if lines.older else "",
            newest=filters.address(run),
        )

    def _value(self, asked: Asked) -> Response:
        run, position, what = asked.parts["run"], int(asked.parts["branch"]), asked.parts["what"]
        record, block = self._found(asked)
        workflow = self._reader.workflow(record)
        if what == "result":
            shown = values.result(self._ledger, run, block, position)
        else:
            shown = values.input(self._ledger, run, workflow.root, block, position)
        self._note(asked, f"saw the {what} of branch {position} of block {block.id}", run)
        namer = self._reader.namer(record, workflow, [block])
        return self._show(
            "value.html",
            asked,
            record=record,
            block=block,
            position=position,
            name=namer(block.id, position),
            what=what,
            shown=shown,
        )

    def _workers(self, asked: Asked) -> Response:
        found = machines(self._ledger)
        reports = [worker.report for machine in found for worker in machine.workers]
        return self._show(
            "workers.html",
            asked,
            stream="/events?of=workers",
            machines=found,
            lanes=lanes.at_work(self._ledger, reports),
            most=LANES_SHOWN,
        )

    def _nodes(self, asked: Asked) -> Response:
        rows, looked = self._known_nodes.rows()
        order = Order.of(asked.query)
        return self._show(
            "nodes.html", asked, stream="/events?of=nodes", rows=order.sort(rows), looked=looked, order=order
        )

    def _limits(self, asked: Asked) -> Response:
        found = self._cluster.limits.list()
        done = asked.query.get("done", "")
        return self._show("limits.html", asked, stream="/events?of=limits", limits=found, done=done)

    def _limit(self, asked: Asked) -> Response:
        limit = self._found_limit(asked)
        return self._show("limit.html", asked, stream="/events?of=limits", limit=limit, said=told.said, others=OTHERS)

    def _aside(self, asked: Asked) -> Response:
        found = self._ledger.aside(lists.ASIDE_SHOWN)
        return self._show("aside.html", asked, stream="/events?of=aside", messages=found, most=lists.ASIDE_SHOWN)

    def _count(self, asked: Asked) -> Response:
        raw, kind = self._metrics.text()
        return Response(raw, media_type=kind)

    # Actions

    def _act(self, asked: Asked) -> Response:
        run = asked.parts["run"]
        _ACTIONS[asked.route.name](Run(run, of=self._cluster))
        self._note(asked, f"did {asked.route.name}", run)
        return RedirectResponse(f"/runs/{words.segment(run)}", 303)

    def _act_on_worker(self, asked: Asked) -> Response:
        (name, *_) = asked.form.get("worker", [""])
        try:
            said = _WORKER_ACTIONS[asked.route.name](self._cluster.workers, name)
        except errors.BrokerUnavailable as error:
            # Not only the ledger may be away: the worker may not have answered.
            return self.refuse(503, str(error), asked.session, asked.path)
        except errors.ConfigurationError as error:
            return self.refuse(403, str(error), asked.session, asked.path)
        user = asked.session.user.name if asked.session else ""
        extra = {"action": f"monitor_{asked.route.name}", "worker": said.worker, "user": user}
        log.info("monitor: %s did %s, worker %s", user or "somebody", asked.route.name, said.worker, extra=extra)
        return RedirectResponse("/workers", 303)

    def _delete(self, asked: Asked) -> Response:
        run = asked.parts["run"]
        # Places of limits are free with it, so what has them shall have stopped.
        if not self._cluster.let_stop(run) or not self._ledger.delete(run):
            self._ledger.run(run)
            return self.refuse(403, "Only a run that has ended can be deleted.", asked.session, asked.path)
        self._note(asked, "did delete", run)
        return RedirectResponse("/?done=delete", 303)

    def _bulk(self, asked: Asked) -> Response:
        (action, *_) = asked.form.get("action", [""])
        chosen = list(dict.fromkeys(asked.form.get("run", [])))
        if action not in ("cancel", "retry") or len(chosen) > BULK_AT_MOST:
            text = f"Choose cancel or retry, and at most {BULK_AT_MOST} runs."
            return self.refuse(400, text, asked.session, "/")
        before = {record.id: record.state for record in self._ledger.records(chosen)}
        changed = 0
        for run in chosen:
            try:
                _ACTIONS[action](Run(run, of=self._cluster))
            except errors.RunNotFound:
                continue  # it has expired since the page was made
            changed += run in before and (before[run] in _RETRIED if action == "retry" else before[run] not in ENDED)
            self._note(asked, f"did {action}", run)
        (query, *_) = asked.form.get("filters", [""])
        filters = Filters.of(dict(parse_qsl(query[:QUERY_LIMIT])))
        done = urlencode({"done": action, "changed": changed, "chosen": len(chosen)})
        address = filters.address(filters.before)
        return RedirectResponse(f"{address}{'&' if '?' in address else '?'}{done}", 303)

    def _set_limit(self, asked: Asked) -> Response:
        name, concurrent, per = (asked.form.get(field, [""])[0].strip() for field in ("name", "concurrent", "per"))
        if concurrent and not (concurrent.isascii() and concurrent.isdigit() and len(concurrent) <= _DIGITS):
            text = f"At a time there may be a number of them, not {words.clean(concurrent, 40)!r}."
            return self.refuse(400, text, asked.session, "/limits")
        try:
            self._cluster.limits.set(name, concurrent=int(concurrent) if concurrent else None, per=per or None)
        except errors.WorkflowError as error:
            return self.refuse(400, str(error), asked.session, "/limits")
        self._note_limit(asked, f"set concurrent={concurrent or 'none'} per={per or 'none'}", name)
        return RedirectResponse(f"/limits/{words.segment(name)}", 303)

    def _clear_limit(self, asked: Asked) -> Response:
        name = self._found_limit(asked).name
        known = self._cluster.limits.clear(name)
        self._note_limit(asked, "cleared", name)
        return RedirectResponse(f"/limits/{words.segment(name)}" if known is not None else "/limits?done=clear", 303)

    # Parts of the above

    def _found_limit(self, asked: Asked) -> Known:
        found = self._cluster.limits.show(asked.parts["limit"])
        if found is None:
            name = asked.parts["limit"]
            raise _NoLimit(f"There is no limit {name!r}: no code has declared it, and nobody has set it.")
        return found

    def _note_limit(self, asked: Asked, what: str, limit: str) -> None:
        name = asked.session.user.name if asked.session else ""
        extra = {"action": f"monitor_{asked.route.name}", "limit": limit, "user": name}
        log.info("monitor: %s %s, limit %s", name or "somebody", what, limit, extra=extra)

    def _found(self, asked: Asked) -> tuple[Any, browse.BlockGlance]:
        record = self._ledger.run(asked.parts["run"])
        block = browse.block(self._ledger, asked.parts["run"], asked.parts["block"])
        if int(asked.parts["branch"]) >= block.n:
            raise errors.RunNotFound(f"block {block.id!r} of run {record.id!r} has no branch {asked.parts['branch']}")
        return record, block

    def _lines_of(self, asked: Asked, branch: int) -> logs.Lines | None:
        # They are the user's data, as results are.
        if asked.session is None or asked.session.user.role < Role.OPERATOR:
            return None
        wanted = Wanted.of(asked.parts["block"], branch)
        return logs.lines(self._ledger, asked.parts["run"], wanted, limit=logs.LINES_OF_BRANCH)

    def _note(self, asked: Asked, what: str, run: str) -> None:
        name = asked.session.user.name if asked.session else ""
        extra = {"action": f"monitor_{asked.route.name}", "run_id": run, "user": name}
        log.info("monitor: %s %s, run %s", name or "somebody", what, run, extra=extra)


class _NoLimit(Exception):
    """There is no limit of this name."""


class _Pages:
    """Which page of how many, and the addresses of the ones beside it."""

    def __init__(self, number: int, size: int, total: int, query: Mapping[str, str]) -> None:
        self.number = number
        self.first = number * size + 1
        self.last = min(total, (number + 1) * size)
        self.before = self._address(number - 1, query) if number > 0 else None
        self.after = self._address(number + 1, query) if self.last < total else None

    @staticmethod
    def _address(number: int, query: Mapping[str, str]) -> str:
        said = {**query, "page": str(number)}
        return "?" + "&".join(f"{name}={words.segment(value)}" for name, value in said.items() if value)


def _stream(run: str, cursor: str = "0") -> str:
    """Where a page hears that something has happened after what it shows."""
    return f"/runs/{words.segment(run)}/events?after={cursor}"


def _stream_of_lines(run: str, lines: logs.Lines) -> str:
    """The same for lines that are said."""
    return f"/runs/{words.segment(run)}/logs/events?after={lines.cursor}"


def _static(name: str) -> Response:
    raw, kind = words.static(name)
    return Response(raw, media_type=kind, headers={"cache-control": "max-age=31536000, immutable"})


def _blocks_address(run: str, path: Path) -> str:
    return f"/runs/{words.segment(run)}/blocks?path={','.join(map(str, path)) or 'root'}"


def _path(text: str | None) -> Path | None:
    if not text:
        return None
    if text == "root":
        return ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        return None


def _number(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 7 else 0
