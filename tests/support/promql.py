"""Checks a PromQL expression against what a monitor really says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

import promql_parser
from prometheus_client import Metric
from promql_parser import AggModifierType, AggregateExpr, BinaryExpr, Matcher, MatchOp, VectorSelector

#: Labels that Prometheus adds to all that it scrapes.
ADDED = frozenset({"job", "instance"})

#: What is sampled, by name: the values that each label has.
Scrape = Mapping[str, Mapping[str, frozenset[str]]]


def scrape(families: Iterable[Metric]) -> Scrape:
    """What a scrape said."""
    found: dict[str, dict[str, set[str]]] = {}
    for family in families:
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return {name: {label: frozenset(values) for label, values in labels.items()} for name, labels in found.items()}


def wrong(expression: str, scraped: Scrape) -> list[str]:
    """What is wrong with an expression: syntax, names that nobody samples, labels and values that they do not have."""
    try:
        parsed = promql_parser.parse(expression)
    except ValueError as error:
        return [f"{error}"]
    return [complaint for node in _nodes(parsed) for complaint in _wrong(node, scraped)]


def _wrong(node: object, scraped: Scrape) -> Iterator[str]:
    if isinstance(node, VectorSelector):
        if node.name not in scraped:
            yield f"nobody samples {node.name}"
            return
        labels = scraped[node.name]
        for matcher in node.matchers.matchers:
            if matcher.name not in labels and matcher.name not in ADDED:
                yield f"{node.name} has no label {matcher.name}"
            elif matcher.name in labels and not any(_matches(matcher, value) for value in labels[matcher.name]):
                yield f"no {matcher.name} of {node.name} is {matcher.value}"
    elif isinstance(node, AggregateExpr) and node.modifier is not None:
        by = node.modifier.type == AggModifierType.By
        yield from _missing(node.modifier.labels if by else [], node.expr, scraped)
    elif isinstance(node, BinaryExpr) and node.modifier is not None and node.modifier.matching is not None:
        for side in (node.lhs, node.rhs):
            yield from _missing(node.modifier.matching.labels, side, scraped)


def _missing(labels: Iterable[str], expression: promql_parser.Expr, scraped: Scrape) -> Iterator[str]:
    for label in labels:
        if label not in labels_of(expression, scraped):
            yield f"{expression.prettify()} has no label {label}"


def labels_of(expression: promql_parser.Expr, scraped: Scrape) -> frozenset[str]:
    """The labels that the answer to an expression may have."""
    if isinstance(expression, AggregateExpr):
        inner, modifier = labels_of(expression.expr, scraped), expression.modifier
        if modifier is None:
            return frozenset()
        named = frozenset(modifier.labels)
        return inner & named if modifier.type == AggModifierType.By else inner - named
    if isinstance(expression, VectorSelector):
        return ADDED | frozenset(scraped.get(expression.name or "", {}))
    if isinstance(expression, BinaryExpr):
        return labels_of(expression.lhs, scraped) | labels_of(expression.rhs, scraped)
    below = _children(expression)
    return frozenset().union(*(labels_of(child, scraped) for child in below))


def _matches(matcher: Matcher, value: str) -> bool:
    if matcher.op == MatchOp.Equal:
        return bool(value == matcher.value)
    if matcher.op == MatchOp.NotEqual:
        return bool(value != matcher.value)
    return (re.fullmatch(matcher.value, value) is not None) == (matcher.op == MatchOp.Re)


def _nodes(expression: promql_parser.Expr) -> list[promql_parser.Expr]:
    found: list[promql_parser.Expr] = []

    def visit(node: promql_parser.Expr) -> bool:
        found.append(node)
        return True

    promql_parser.walk(expression, pre_visit=visit)
    return found


def _children(expression: promql_parser.Expr) -> list[promql_parser.Expr]:
    if isinstance(expression, promql_parser.Call):
        return list(expression.args)
    if isinstance(expression, promql_parser.MatrixSelector):
        return [expression.vector_selector]
    if isinstance(expression, promql_parser.ParenExpr | promql_parser.UnaryExpr | promql_parser.SubqueryExpr):
        return [expression.expr]
    return []
