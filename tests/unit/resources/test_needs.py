"""What lanes need of a worker, as the names of queues say it."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis import strategies as st

from egregore_dist.resources import needs
from egregore_dist.resources.needs import Needs

words = st.text("abcXYZ019_.-", min_size=1, max_size=12)
labels = st.frozensets(st.builds("{}={}".format, words, words), max_size=4)


bytes_needed = st.integers(0, 2**49)
cores = st.integers(0, 10**7).map(lambda number: number / 1000)


@hypothesis.given(
    base=words, labels=labels, gpus=st.integers(0, 99), memory=bytes_needed, learned=bytes_needed, cpus=cores
)
def test_a_name_says_what_is_needed(
    base: str, labels: frozenset[str], gpus: int, memory: int, learned: int, cpus: float
) -> None:
    """What a queue was derived with is read from its name; with nothing it is the queue itself."""
    name = needs.queue(base, labels=labels, gpus=gpus, memory=memory, learned=learned, cpus=cpus)

    assert needs.of(name) == Needs(base, labels, gpus, memory, learned, cpus)
    assert needs.is_derived(name) == bool(labels or gpus or memory or learned or cpus)
    assert (name == base) == (not needs.is_derived(name))
    assert needs.of(needs.with_learned(name, 7)) == Needs(base, labels, gpus, memory, 7, cpus)
    assert needs.of(needs.with_declared(name, 7, 1.5)) == Needs(base, labels, gpus, 7, learned, 1.5)
    assert needs.of(needs.without_sizes(name)) == Needs(base, labels, gpus)


@hypothesis.given(
    memory=st.none() | st.integers(1, 2**70), cpus=st.none() | st.floats(1e-9, 1e30, exclude_min=True, width=64)
)
def test_what_is_declared_fits_in_a_name(memory: int | None, cpus: float | None) -> None:
    """Whatever a node declares, a queue that is made for it says it; little is what every worker has."""
    its_memory, its_cpus = needs.declared(memory, cpus)
    found = needs.of(needs.queue("home", memory=its_memory, cpus=its_cpus))

    assert found == Needs("home", memory=its_memory, cpus=its_cpus)
    assert (its_memory == 0) == (memory is None or memory <= needs.MEMORY_PER_NODE)
    assert (its_cpus == 0) == (cpus is None or cpus <= 1)
    if its_cpus and cpus is not None and cpus < 10**6:
        assert cpus - 1e-8 <= its_cpus <= cpus + 0.0011


@pytest.mark.parametrize("cpus", [1.1, 4.03, 4.031, 16.1, 32.7])
def test_cores_are_declared_as_they_are_written(cpus: float) -> None:
    """A worker of just so many cores has them."""
    assert needs.declared(None, cpus) == (0, cpus)


@pytest.mark.parametrize(
    "name",
    [
        "a@b",
        "a@",
        "@zone=eu",
        "a@gpus:0",
        "a@gpus:2+",
        "a@b=1+a=1",
        "a@zone=eu+gpus:2",
        "a@gpus:1+gpus:1",
        "@",
        "a@cpus:1.50",
        "a@memory:1.5",
        "a@cpus:2+memory:9",
    ],
)
def test_other_names_say_nothing(name: str) -> None:
    """A queue that somebody called so is itself: only what is written as it would be here is derived."""
    assert needs.of(name) == Needs(name)
    assert not needs.is_derived(name)
