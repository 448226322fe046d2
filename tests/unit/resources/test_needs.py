"""What lanes need of a worker, as the names of queues say it."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis import strategies as st

from egregore_dist.resources import needs
from egregore_dist.resources.needs import Needs

words = st.text("abcXYZ019_.-", min_size=1, max_size=12)
labels = st.frozensets(st.builds("{}={}".format, words, words), max_size=4)


@hypothesis.given(base=words, labels=labels, gpus=st.integers(0, 99), memory=st.integers(0, 2**50))
def test_a_name_says_what_is_needed(base: str, labels: frozenset[str], gpus: int, memory: int) -> None:
    """What a queue was derived with is read from its name; with nothing it is the queue itself."""
    name = needs.queue(base, labels=labels, gpus=gpus, memory=memory)

    assert needs.of(name) == Needs(base, labels, gpus, memory)
    assert needs.is_derived(name) == (bool(labels) or gpus > 0 or memory > 0)
    assert (name == base) == (not needs.is_derived(name))
    assert needs.of(needs.with_memory(name, 7)) == Needs(base, labels, gpus, 7)


@pytest.mark.parametrize(
    "name", ["a@b", "a@", "@zone=eu", "a@gpus:0", "a@gpus:2+", "a@b=1+a=1", "a@zone=eu+gpus:2", "a@gpus:1+gpus:1", "@"]
)
def test_other_names_say_nothing(name: str) -> None:
    """A queue that somebody called so is itself: only what is written as it would be here is derived."""
    assert needs.of(name) == Needs(name)
    assert not needs.is_derived(name)
