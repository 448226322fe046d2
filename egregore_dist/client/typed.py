"""Give a run's value the types that its nodes declare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from egregore_dist.wire import codec
from egregore_dist.workflow import describe


def typed(value: Any, wanted: describe.ResultType | None, run: str) -> Any:
    """Convert a decoded value to what the last nodes' return annotations say, where they say something."""
    match wanted:
        case None:
            return value
        case describe.Value(annotation=annotation, node=node):
            whose = "" if node is None else f", returned by node {node!r}"
            return codec.convert(value, annotation, f"the value of run {run!r}{whose}")
        case describe.Fields(fields=fields) if isinstance(value, Mapping):
            return {name: typed(entry, fields.get(name), run) for name, entry in value.items()}
        case describe.Items(item=item) if isinstance(value, Mapping):
            return {name: typed(entry, item, run) for name, entry in value.items()}
        case describe.Items(item=item) if isinstance(value, list):
            return [typed(entry, item, run) for entry in value]
        case _:
            return value
