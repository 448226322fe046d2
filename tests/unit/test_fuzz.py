"""The targets that are fuzzed, with random and mutated bytes: no undocumented exception, and nothing slow."""

from __future__ import annotations

import contextlib
import time

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egregore_dist.ledger import replies
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_valid(name: str) -> None:
    """Each target decodes its seeds, or refuses them as it documents: the signed sample is of another Python."""
    for seed in TARGETS[name].seeds:
        with contextlib.suppress(*TARGETS[name].documented):
            TARGETS[name].run(seed)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=60)
@given(data=st.data())
def test_s6_decoders_refuse_or_read_any_bytes(name: str, data: st.DataObject) -> None:
    """Bytes that are random, or a valid encoding with a part replaced, end in a value or a documented exception."""
    target = TARGETS[name]
    seed = data.draw(st.sampled_from(target.seeds) | st.binary(max_size=200))
    at = data.draw(st.integers(0, len(seed)))
    raw = seed[:at] + data.draw(st.binary(max_size=20)) + seed[at + data.draw(st.integers(0, 20)) :]

    begun = time.process_time()
    with contextlib.suppress(*target.documented):
        target.run(raw)

    assert time.process_time() - begun < 1


@pytest.mark.parametrize("count", [-2, -3])
def test_s6_an_event_that_counts_backwards_is_refused(count: int) -> None:
    """Calls in vain whose number is below zero are refused, and not read again and again."""
    with pytest.raises(ValueError, match="values"):
        replies.unpack_failed(msgspec.msgpack.encode([3, count, "node", 1, 2, 3]))
