"""The names of a block's branches."""

from __future__ import annotations

from collections.abc import Sequence

from egregore_dist import errors
from egregore_dist.ledger import Ledger, browse
from egregore_dist.ledger.browse import BlockGlance
from egregore_dist.ledger.keys import ROOT
from egregore_dist.wire import codec
from egregore_dist.workflow import spec

# Bytes of an input that is read for the keys of a mapping, which are the names of a map's branches.
_KEYS_READ = 1_000_000


def told(root: spec.StepSpec, block: BlockGlance) -> Sequence[str] | None:
    """The names that the workflow tells; None for a map, whose input has them."""
    if block.id == ROOT:
        return (block.name,)
    try:
        step = spec.step_at(root, block.path)
    except IndexError:
        return ()
    match step:
        case spec.ParallelSpec():
            return step.keys
        case spec.MapSpec():
            return None
        case _:
            return (step.name,)


def of_map(ledger: Ledger, run: str, block: BlockGlance) -> list[str]:
    """The keys that a map's branches are named by: none where they are its positions, or its input is very large."""
    size, start = browse.input_start(ledger, run, block.input)
    if size > _KEYS_READ or not codec.is_mapping(start):
        return []
    try:
        return [str(key) for key in codec.split(ledger.input(run, block.input)).keys]
    except (errors.EncodingError, errors.RunNotFound):
        return []
