"""The metrics that the ledger's transitions have counted: the same whoever asks, and after a restart too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from egregore_dist.ledger import Ledger, counts
from egregore_dist.ledger.counts import BOUNDS, Counts, Durations

# What janitors do, by how it is counted.
_ACTIONS = {
    "deadlines": "deadline",
    "lanes": "lane_gone",
    "messages": "message_again",
    "failed": "sweep_failed",
}
# As Prometheus's clients write them.
_LES = (*(str(float(bound)) for bound in BOUNDS), "+Inf")
_OUTCOMES = ("ok", "error", "timeout", "cancelled", "lost")
_RUNS_END = ("succeeded", "failed", "cancelled")


def families(ledger: Ledger) -> Iterator[Metric]:
    """Every one. Raises `errors.BrokerUnavailable`."""
    series, cluster = counts.read(ledger)
    # What has no series yet is shown as nothing, so that rates begin at their first increase.
    shown = {name: found for name, found in series.items() if found.numbers or found.durations or name == counts.OTHER}
    yield from _runs(shown)
    yield from _branches(shown)
    actions = CounterMetricFamily(
        "egregore_janitor_actions", "What janitors and wardens had to do themselves.", labels=["action"]
    )
    for counted, action in _ACTIONS.items():
        actions.add_metric([action], cluster.numbers.get(counted, 0))
    yield actions
    yield CounterMetricFamily(
        "egregore_messages_set_aside", "Messages that nobody could serve.", cluster.numbers.get("aside", 0)
    )


def _runs(series: Mapping[str, Counts]) -> Iterator[Metric]:
    yield _number("egregore_runs_submitted", "Runs that were accepted.", series, "submitted")
    yield _number("egregore_runs_retried", "Retries of runs that had ended badly.", series, "retried")
    ended = CounterMetricFamily(
        "egregore_runs_ended", "Runs that ended; each time, if they were retried.", labels=["workflow", "state"]
    )
    for name, found in series.items():
        took = found.labelled("run")
        for state in _RUNS_END:
            ended.add_metric([name, state], took[state].count if state in took else 0)
    yield ended
    yield _durations(
        "egregore_run_duration_seconds",
        "From the first branch, or the retry, to the end of a run.",
        series,
        "state",
        lambda found: found.labelled("run"),
    )
    yield _durations(
        "egregore_run_wait_seconds",
        "From the submission of a run to its first branch.",
        series,
        "",
        lambda found: _only(found, "wait"),
    )


def _branches(series: Mapping[str, Counts]) -> Iterator[Metric]:
    yield _durations(
        "egregore_block_duration_seconds",
        "From the opening to the end of a parallel or a map.",
        series,
        "",
        lambda found: _only(found, "block"),
    )
    ended = CounterMetricFamily(
        "egregore_branches_ended", "Branches that ended, by their outcome.", labels=["workflow", "outcome"]
    )
    for name, found in series.items():
        took, others = found.labelled("branch"), found.numbered("branches")
        for outcome in _OUTCOMES:
            timed = took[outcome].count if outcome in took else 0
            ended.add_metric([name, outcome], timed + others.get(outcome, 0))
    yield ended
    yield _durations(
        "egregore_branch_duration_seconds",
        "Of branches that ended by themselves: from when one was begun to its end.",
        series,
        "outcome",
        lambda found: found.labelled("branch"),
    )
    yield _durations(
        "egregore_branch_wait_seconds",
        "Of branches that ended by themselves: from the opening of the block to when one was begun.",
        series,
        "",
        lambda found: _only(found, "queue"),
    )
    yield _number("egregore_leases_lost", "Leases whose lane was gone.", series, "lost")
    text = "Calls of nodes with a limit that failed, and are made again."
    yield _number("egregore_limited_retries", text, series, "again")
    text = "Calls of other nodes that failed and were made again, told as their branch ends or meets a block."
    yield _number("egregore_retries", text, series, "made_again")
    yield _number("egregore_commits_refused", "Results that came too late, and were dropped.", series, "late")


def _number(name: str, text: str, series: Mapping[str, Counts], what: str) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=["workflow"])
    for workflow, found in series.items():
        family.add_metric([workflow], found.numbers.get(what, 0))
    return family


def _durations(
    name: str, text: str, series: Mapping[str, Counts], label: str, of: Callable[[Counts], Mapping[str, Durations]]
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, text, labels=["workflow", *([label] if label else [])])
    for workflow, found in series.items():
        for value, durations in of(found).items():
            buckets = [(le, float(count)) for le, count in zip(_LES, durations.up_to, strict=True)]
            family.add_metric([workflow, *([value] if label else [])], buckets, sum_value=durations.sum)
    return family


def _only(found: Counts, what: str) -> dict[str, Durations]:
    durations = found.durations.get(what)
    return {} if durations is None else {"": durations}
