"""The buckets of a limit that the branches of a block go to, as the ledger wants them."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any
from urllib.parse import quote

from egregore_dist.ledger import limits
from egregore_dist.wire import codec
from egregore_dist.workflow import spec
from egregore_dist.workflow.limits import Named

#: Values of a key that are a track each in one block. Where there are more, each branch waits at a block of its own.
APART = 32

# Letters of a value in the name of its bucket.
_VALUE_LIMIT = 100


def named(limit: Named, bucket: str) -> str:
    """A limit as a track has it."""
    return f"{bucket} {limits.text_of(limit.rule, limit.key)}"


def buckets(limit: Named, step: spec.BlockSpec | spec.NodeSpec, raw: bytes) -> Mapping[str, tuple[int, ...]]:
    """The buckets of a block's input, each with the branches of a map that go there; without a map, only one."""
    if limit.key is None:
        return {limit.name: ()}
    if not isinstance(step, spec.MapSpec):
        return {bucket(limit, codec.decode(raw)): ()}
    found: dict[str, list[int]] = {}
    entries = codec.split(raw)
    for branch in range(len(entries)):
        found.setdefault(bucket(limit, codec.decode(entries.value(branch))), []).append(branch)
    return {name: tuple(branches) for name, branches in found.items()}


def bucket(limit: Named, data: Any) -> str:
    """The bucket of one input: named by the value of the key, or by its digest where that is long or no plain value."""
    value = limit.value(data)
    if isinstance(value, str | int | float | bool) or value is None:
        text = quote("" if value is None else str(value), safe="")
        if len(text) <= _VALUE_LIMIT:
            return f"{limit.name}/{text}"
    return f"{limit.name}/sha256-{sha256(repr(value).encode()).hexdigest()[:32]}"
