"""What nodes got and gave, as text: of values that are not too large."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from egregore_dist import errors
from egregore_dist.cli import hooks, redact, show
from egregore_dist.ledger import Ledger, browse
from egregore_dist.ledger.browse import BlockGlance
from egregore_dist.wire import codec
from egregore_dist.workflow import spec

#: Bytes of an encoded value that is shown, and of a map's input that is taken apart for one item; letters of a text.
DECODED_AT_MOST = 1_000_000
SPLIT_AT_MOST = 64_000_000
LETTERS_SHOWN = 100_000

_LOOKED_AT = LETTERS_SHOWN + 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A value on a page.

    Attributes:
        text: as JSON, or None where it is not shown.
        size: its bytes as they are stored.
        note: why it is not shown, or not whole; "" where it is.
    """

    text: str | None
    size: int
    note: str = ""


def result(ledger: Ledger, run: str, block: BlockGlance, branch: int) -> Shown:
    """What a branch gave."""
    (row,) = browse.branches(ledger, run, block, [branch])
    if not row.result:
        return Shown(text=None, size=0, note="The branch has no result.")
    if row.result > DECODED_AT_MOST:
        return _too_large(row.result)
    raw = browse.stored(ledger, run, "r", block.id, branch)
    return Shown(text=None, size=0, note="The branch has no result any more.") if raw is None else _text(raw, "result")


def input(ledger: Ledger, run: str, root: spec.StepSpec, block: BlockGlance, branch: int) -> Shown:
    """What a branch got: of a map its item, else what the block got."""
    size, _ = browse.input_start(ledger, run, block.input)
    is_item = block.parent is not None and isinstance(spec.step_at(root, block.path), spec.MapSpec)
    if is_item and size > SPLIT_AT_MOST:
        note = f"The map got {show.size(size)}, and of more than {show.size(SPLIT_AT_MOST)} no item is shown here."
        return Shown(text=None, size=size, note=note)
    if not is_item and size > DECODED_AT_MOST:
        return _too_large(size)
    raw = ledger.input(run, block.input)
    if is_item:
        try:
            raw = codec.split(raw).value(branch)
        except (errors.EncodingError, IndexError):
            return Shown(text=None, size=size, note="The stored input cannot be read.")
        if len(raw) > DECODED_AT_MOST:
            return _too_large(len(raw))
    return _text(raw, "input")


def _text(raw: bytes, what: hooks.What) -> Shown:
    try:
        value = hooks.value(what, show.plain(codec.decode(raw)))
        text = redact.json(value, indent=2)
    except (errors.EncodingError, msgspec.MsgspecError, RecursionError, TypeError, ValueError):
        return Shown(text=None, size=len(raw), note="The stored value cannot be read.")
    note = "" if len(text) <= LETTERS_SHOWN else f"The first {LETTERS_SHOWN} of {len(text)} letters."
    # Cut after that: of a password that is cut off, the rest would not be known for one.
    return Shown(text=redact.url(text[:_LOOKED_AT])[:LETTERS_SHOWN], size=len(raw), note=note)


def _too_large(size: int) -> Shown:
    note = f"It has {show.size(size)}, and more than {show.size(DECODED_AT_MOST)} is not shown here."
    return Shown(text=None, size=size, note=note)
