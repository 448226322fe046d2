"""The metrics of a real cluster, and the dashboard and the alerts that are shipped for them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from egregore_dist import Limit, LocalCluster, Sequence, node
from egregore_dist.client import session
from egregore_dist.client.session import Session
from egregore_dist.ledger import Aside, Ledger
from egregore_dist.ledger.limits import text_of
from egregore_dist.monitor.metrics import Metrics
from egregore_dist.resources.report import Report
from egregore_dist.workflow.limits import Rule
from tests.cluster.monitor_flows import failing, gated, nested, numbers
from tests.support import promql
from tests.support.promql import Scrape
from tests.support.waiting import let_pass, until

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "egregore-dist.json").read_text())
ALERTS: list[dict[str, Any]] = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
TARGETS = [(panel["title"], target) for panel in PANELS for target in panel["targets"]]
VARIABLES = {"$__rate_interval": "5m", "$job": ".*", "$workflow": ".*"}


@node
def slow(seconds: float) -> float:
    """Take so long."""
    let_pass(seconds)
    return seconds


@node(retries=1, retry_delay=0.5, limit=Limit(concurrent=1, name="metrics.1"))
def limited(call: dict[str, str]) -> str:
    """Fail the first time, then wait until there is a file."""
    if not Path(call["failed"]).exists():
        Path(call["failed"]).touch()
        raise OSError("not yet")
    until(Path(call["gate"]).exists, seconds=60, what="the gate")
    return "done"


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A cluster that nobody else counts on, after runs of every kind."""
    with LocalCluster(workers=2) as running:
        for _ in range(3):
            numbers(20)
        nested([1, 2])
        with pytest.raises(Exception, match="breaks"):
            failing(1)
        session.current().limits.set("set-by-hand", concurrent=3, per="20/s")
        yield running


class Said:
    """One scrape."""

    def __init__(self, text: str) -> None:
        self.families = list(text_string_to_metric_families(text))
        self._samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        """The value of a sample."""
        return self._samples[name, frozenset(labels.items())]

    def has(self, name: str, **labels: str) -> bool:
        """Whether there is such a sample."""
        return (name, frozenset(labels.items())) in self._samples

    def only(self, prefix: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """The samples of a part."""
        return {key: value for key, value in self._samples.items() if key[0].startswith(prefix)}


def scraped(cluster: LocalCluster) -> Said:
    """What the cluster's monitor says."""
    address, _, token = cluster.monitor_url.partition("?token=")
    answer = httpx.get(f"{address}metrics", headers={"authorization": f"Bearer {token}"}, timeout=30)
    assert answer.status_code == 200, answer.text
    return Said(answer.text)


def another(cluster: LocalCluster) -> Said:
    """What a monitor says that was started only now."""
    of = Session(cluster.settings)
    try:
        return Said(Metrics(of.ledger, cluster.settings.queue).text()[0].decode())
    finally:
        of.close()


@pytest.fixture(scope="module")
def everything(cluster: LocalCluster) -> Scrape:
    """The names, labels and values of one scrape."""
    return promql.scrape(scraped(cluster).families)


def test_what_was_counted_is_right(cluster: LocalCluster) -> None:
    """Runs and branches by workflow and how they ended, each once, with durations and waits of the same number."""
    said = scraped(cluster)

    assert said("egregore_runs", state="succeeded", workflow="numbers") == 3
    assert said("egregore_runs_submitted_total", workflow="numbers") == 3
    assert said("egregore_runs_ended_total", workflow="numbers", state="succeeded") == 3
    assert said("egregore_runs_ended_total", workflow="failing", state="failed") == 1
    assert said("egregore_run_duration_seconds_count", workflow="numbers", state="succeeded") == 3
    assert said("egregore_run_wait_seconds_count", workflow="numbers") == 3
    assert said("egregore_block_duration_seconds_count", workflow="numbers") == 3
    assert said("egregore_block_duration_seconds_count", workflow="nested") == 3
    assert said("egregore_branches_ended_total", workflow="numbers", outcome="ok") == 60
    assert said("egregore_branches_ended_total", workflow="nested", outcome="ok") == 6
    assert said("egregore_branches_ended_total", workflow="failing", outcome="error") == 1
    for workflow, ended in (("numbers", 60), ("nested", 6)):
        assert said("egregore_branch_duration_seconds_count", workflow=workflow, outcome="ok") == ended
        assert said("egregore_branch_wait_seconds_count", workflow=workflow) == ended
        assert said("egregore_branch_wait_seconds_bucket", workflow=workflow, le="+Inf") == ended


def test_a_restart_and_other_monitors_change_nothing(cluster: LocalCluster) -> None:
    """A monitor that was started only now, and has seen no run, says the same of all that was counted."""
    parts = ("run_", "runs_", "block_", "branch_", "branches_ended", "janitor", "messages")
    assert all(scraped(cluster).only(f"egregore_{part}") for part in parts)

    def agree() -> bool:
        # What a janitor does between the two is in the second one only.
        one, other = scraped(cluster), another(cluster)
        return all(one.only(f"egregore_{part}") == other.only(f"egregore_{part}") for part in parts)

    until(agree, what="the same from both")


def test_durations_are_those_of_the_nodes(cluster: LocalCluster) -> None:
    """A branch of 0.2 s is in that bucket, and one that had to wait for it waited as long."""
    Sequence(slow.map(max_concurrent=1), name="slowly")([0.2, 0.2])
    said = scraped(cluster)

    took = {"workflow": "slowly", "outcome": "ok"}
    assert 0.4 <= said("egregore_branch_duration_seconds_sum", **took) < 10
    assert said("egregore_branch_duration_seconds_bucket", **took, le="0.1") == 0
    assert said("egregore_branch_duration_seconds_bucket", **took, le="10.0") == 2
    assert 0.2 <= said("egregore_branch_wait_seconds_sum", workflow="slowly") < 10
    assert 0.4 <= said("egregore_block_duration_seconds_sum", workflow="slowly") < 10
    state = {"workflow": "slowly", "state": "succeeded"}
    assert said("egregore_run_duration_seconds_sum", **state) >= said(
        "egregore_block_duration_seconds_sum", workflow="slowly"
    )


def test_the_backlog_is_estimated_from_what_was_learned(cluster: LocalCluster, tmp_path: Path) -> None:
    """Branches that wait are counted by workflow, and their work is what such ones have taken before."""
    flow = Sequence(slow.map(max_concurrent=1), name="backlogged")
    flow([0.1] * 3)
    until(lambda: session.current().ledger.redis.exists(session.current().ledger.keys.profiles), what="the profiles")
    run = flow.submit([0.1, *[3.0] * 9])
    gate = tmp_path / "gate"
    blocked = gated.submit(str(gate))
    scrapes: list[Said] = []

    def is_estimated() -> bool:
        scrapes[:] = [said := another(cluster)]
        waits = {"state": "waiting", "workflow": "backlogged"}
        if not said.has("egregore_branches", **waits) or said("egregore_branches", **waits) < 7:
            return False
        # None does for a moment, while the lane leaves its slot to another run.
        if said("egregore_branches", state="running", workflow="backlogged") == 0:
            return False
        # The mean of what was learned by now: 0.1 s, and more where one of the long ones has ended.
        seconds = said("egregore_backlog_seconds", workflow="backlogged")
        return 0.05 * said("egregore_branches", **waits) < seconds

    try:
        until(is_estimated, what="the estimate")
        (said,) = scrapes
        assert said("egregore_branches", state="running", workflow="backlogged") == 1
        assert said("egregore_branches", state="parked", workflow="backlogged") == 1
        assert said("egregore_open_blocks") >= 3
        assert said("egregore_runs", state="running", workflow="backlogged") == 1
        assert said("egregore_backlog_seconds", workflow="other") == 0
    finally:
        gate.touch()
        run.cancel()
        blocked.cancel()


def test_limits_say_their_use(cluster: LocalCluster, tmp_path: Path) -> None:
    """Places that are held and what waits for them; a call that is made again is no branch that has ended."""
    gate = tmp_path / "gate"
    flow = Sequence(limited.map(), name="bounded")
    call = {"gate": str(gate), "failed": str(tmp_path / "failed")}
    runs = [flow.submit([call, call]), flow.submit([call])]

    def are_full() -> bool:
        said = another(cluster)
        # The first call of a node makes its limit known, and its first retry the counter.
        if not said.has("egregore_limit_held", limit="metrics.1"):
            return False
        names = ("egregore_limit_held", "egregore_limit_waiting")
        retries = {"workflow": "bounded"}
        return (
            [said(name, limit="metrics.1") for name in names] == [1, 2]
            and said.has("egregore_limited_retries_total", **retries)
            and said("egregore_limited_retries_total", **retries) == 1
        )

    try:
        until(are_full, what="what waits")
        said = another(cluster)
        assert said("egregore_limit_concurrent", limit="metrics.1") == 1
        assert said("egregore_limit_concurrent", limit="set-by-hand") == 3
        assert said("egregore_branches_ended_total", workflow="bounded", outcome="error") == 0
        let_pass(0.3)
    finally:
        gate.touch()
    for run in runs:
        run.result(timeout=60)

    said = another(cluster)
    assert said("egregore_limit_held", limit="metrics.1") == said("egregore_limit_waiting", limit="metrics.1") == 0
    assert said("egregore_branches_ended_total", workflow="bounded", outcome="ok") == 3
    assert said("egregore_branches_ended_total", workflow="bounded", outcome="error") == 0
    assert said("egregore_branch_duration_seconds_count", workflow="bounded", outcome="ok") == 3
    # Two of the three have waited at least for the gate: for their place, and not for a lane.
    assert said("egregore_branch_wait_seconds_bucket", workflow="bounded", le="0.1") <= 1
    assert said("egregore_branch_wait_seconds_sum", workflow="bounded") >= 0.6


def test_workers_say_what_they_use(cluster: LocalCluster) -> None:
    """Every worker has series of its own."""
    said = scraped(cluster)

    assert said("egregore_workers") == 2
    for worker in cluster.workers:
        assert said("egregore_worker_slots", worker=worker.name) == 1
        assert said("egregore_worker_cores", worker=worker.name) > 0
        assert 0 <= said("egregore_worker_cpu_ratio", worker=worker.name) <= 1
        assert said("egregore_worker_pool_memory_bytes", worker=worker.name) > 1e6
        assert said("egregore_worker_memory_total_bytes", worker=worker.name) > said(
            "egregore_worker_memory_available_bytes", worker=worker.name
        )


def test_workers_and_limits_with_series_are_bounded(cluster: LocalCluster) -> None:
    """Of very many the first by name are told of; how many workers there are, and their slots, is of all."""
    machine: dict[str, Any] = {"host": "h", "cores": 1.0, "memory_available": 1, "memory_total": 2}
    with closing(Ledger(cluster.url, prefix="many")) as ledger:
        for number in range(210):
            report = Report(worker=f"w{number:03}", pid=1, slots=2, **machine)
            ledger.report(report.worker, msgspec.msgpack.encode(report), 60.0)
        for number in range(60):
            ledger.edit_limit(f"limit{number:02}", text_of(Rule(concurrent=3), None))
        said = Said(Metrics(ledger, "many").text()[0].decode())

    assert (said("egregore_workers"), said("egregore_slots")) == (210, 420)
    labels = promql.scrape(said.families).values()
    assert {each["worker"] for each in labels if "worker" in each} == {frozenset(f"w{n:03}" for n in range(200))}
    assert {each["limit"] for each in labels if "limit" in each} == {frozenset(f"limit{n:02}" for n in range(50))}


def test_messages_set_aside_are_counted_for_ever(cluster: LocalCluster) -> None:
    """The counter goes on where the list has an end."""
    before = another(cluster)("egregore_messages_set_aside_total")
    session.current().ledger.set_aside([Aside(reason="a test", worker="w")] * 3)

    assert another(cluster)("egregore_messages_set_aside_total") == before + 3


def test_names_and_units_are_sound(cluster: LocalCluster) -> None:
    """Every metric has a help text and a prefix, counters end in total, and no label has many values."""
    for family in scraped(cluster).families:
        assert family.name.startswith("egregore_")
        assert family.documentation.endswith(".")
        for sample in family.samples:
            assert family.type != "counter" or sample.name.endswith("_total")
    labels = promql.scrape(scraped(cluster).families)
    assert all(len(values) <= 51 for each in labels.values() for values in each.values())


# The dashboard and the alerts


def plain(expression: str) -> str:
    """An expression without the dashboard's variables."""
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    return expression


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: str(alert["alert"]))
def test_each_alert_is_about_what_is_sampled(everything: Scrape, alert: dict[str, Any]) -> None:
    """Its expression names metrics, labels and values that a monitor says, and its text labels that it has."""
    assert promql.wrong(alert["expr"], everything) == []
    text = json.dumps(alert["annotations"])
    for label in re.findall(r"\$labels\.(\w+)", text):
        assert label in promql.labels_of(promql.promql_parser.parse(alert["expr"]), everything)
    assert {"summary", "description"} <= alert["annotations"].keys()
    assert alert["labels"]["severity"] in {"warning", "critical"}


@pytest.mark.parametrize(("title", "target"), TARGETS, ids=[f"{title}-{target['refId']}" for title, target in TARGETS])
def test_each_panel_is_about_what_is_sampled(everything: Scrape, title: str, target: dict[str, Any]) -> None:
    """The same of each query of the dashboard, and its legend names labels that the answer has."""
    expression = plain(target["expr"])

    assert "$" not in expression
    assert promql.wrong(expression, everything) == []
    for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
        assert label in promql.labels_of(promql.promql_parser.parse(expression), everything)


def test_busy_lanes_are_lanes() -> None:
    """They are not worked out from how long branches took, many of which one lane may run, or none while they wait."""
    shown = {
        name
        for title, target in TARGETS
        if title == "Busy lanes"
        for name in re.findall(r"egregore_\w+", target["expr"])
    }

    assert shown == {"egregore_worker_lanes", "egregore_slots"}


def test_the_dashboard_shows_every_metric(everything: Scrape) -> None:
    """What a monitor says is on the dashboard, or in an alert, as far as it is not there to be looked up."""
    text = json.dumps(DASHBOARD) + json.dumps(ALERTS)
    shown = {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in re.findall(r"egregore_\w+", text)}
    sampled = {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in everything}

    assert shown <= sampled
    assert sampled - shown <= {
        "egregore_worker_slots",
        "egregore_worker_prefetch",
        "egregore_worker_cores",
        "egregore_worker_load",
    }


def test_panels_do_not_overlap() -> None:
    """Each panel has its own place and id, and the variables of the queries are defined."""
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert {variable["name"] for variable in DASHBOARD["templating"]["list"]} == {"datasource", "job", "workflow"}


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ("sum(egregore_worker)", "nobody samples"),
        ('egregore_runs{status="failed"}', "has no label status"),
        ('egregore_runs{state="done"}', "is done"),
        ("sum by (worker) (egregore_runs)", "has no label worker"),
        ("sum(egregore_runs", "parenthesis|unexpected|unclosed"),
        ("egregore_workers / on (worker) egregore_slots", "has no label worker"),
    ],
)
def test_what_is_wrong_is_found(everything: Scrape, expression: str, complaint: str) -> None:
    """The check itself notices a name, a label, a value or a syntax that is wrong."""
    found = promql.wrong(expression, everything)

    assert found
    assert re.search(complaint, found[0])
