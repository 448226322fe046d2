"""F16: huge inputs, results and exception texts, depth, NaN, very many keys: each ends clearly, and alone."""

from __future__ import annotations

import math
from typing import Any

import pytest

from egregore_dist import BranchError, ParallelExecutionError, errors, node, parallel
from egregore_dist.wire import failure
from tests.support.trial import Trial
from tests.support.work import quick

MB = 2**20
# The limit is that of what is encoded, and a text takes some bytes more than it has letters.
SIZES = {1: True, 8: True, 63: True, 64: False, 512: False}
DEEP, KEYS = 100_000, 1_000_000


def deep(levels: int) -> Any:
    """A list in a list, and so on."""
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


@node
def length(text: str) -> int:
    return len(text)


@node
def makes(megabytes: int) -> str:
    return "x" * (megabytes * MB)


@node
async def amakes(megabytes: int) -> str:
    return "x" * (megabytes * MB)


@node
def says(megabytes: int) -> None:
    raise ValueError("x" * (megabytes * MB))


@node
async def asays(megabytes: int) -> None:
    raise ValueError("x" * (megabytes * MB))


@node
def nests(levels: int) -> Any:
    return deep(levels)


@node
def same(value: Any) -> Any:
    return value


@node
def keys(count: int) -> dict[int, int]:
    return {number: number for number in range(count)}


def test_inputs(trial: Trial) -> None:
    """An input at the limit arrives; one over it is refused at submit, and leaves nothing behind."""
    for size, fits in SIZES.items():
        text, before = "x" * (size * MB), len(trial.ledger.runs())
        if fits:
            assert trial.run(parallel(length, quick), text)["length"] == len(text)
        else:
            with pytest.raises(errors.PayloadTooLarge, match=r"input of workflow 'parallel' takes \d+ bytes.*67108864"):
                parallel(length, quick).submit(text)
            assert len(trial.ledger.runs()) == before
        assert trial.serves(quick, within=10)


@pytest.mark.parametrize("step", [makes, amakes], ids=["sync", "async"])
def test_results(trial: Trial, step: Any) -> None:
    """A result over the limit fails its branch and no other; the same workers serve on."""
    found = trial.run(step.map(on_error="collect"), list(SIZES))

    for (size, fits), value in zip(SIZES.items(), found, strict=True):
        if fits:
            assert len(value) == size * MB
        else:
            assert (type(value), value.node, value.kind) == (BranchError, step.name, "error")
            assert value.type == "egregore_dist.errors.PayloadTooLarge"
            assert f"the value returned by node '{step.name}' takes" in value.message
    error = trial.failure(trial.submit(parallel(step, name="block"), 64))
    assert isinstance(error, ParallelExecutionError)
    assert isinstance(error.__cause__, errors.PayloadTooLarge)
    assert trial.serves(quick, within=10)
    assert [worker.died for worker in trial.nodes] == [None, None]


@pytest.mark.parametrize("step", [says, asays], ids=["sync", "async"])
def test_texts_of_exceptions(trial: Trial, step: Any) -> None:
    """However much an exception says, its failure is small, and its class is there."""
    found = trial.run(step.map(on_error="collect"), list(SIZES))

    assert [(error.type, error.kind) for error in found] == [("ValueError", "error")] * len(SIZES)
    for error in found:
        assert len(error.message) == failure.MESSAGE_LIMIT
        assert len(error.traceback.encode()) <= failure.TRACEBACK_LIMIT
    error = trial.failure(trial.submit(parallel(step), 64))
    assert isinstance(error, ParallelExecutionError)
    assert isinstance(error.__cause__, ValueError)
    assert len(str(error)) < 2 * failure.MESSAGE_LIMIT
    assert trial.serves(quick, within=10)


def test_depth(trial: Trial) -> None:
    """A value of a hundred thousand levels is refused where it comes from: at submit, or in its branch."""
    with pytest.raises(errors.EncodingError, match="input of workflow 'same' is nested too deeply"):
        same.submit(deep(DEEP))
    assert trial.ledger.runs() == []

    found = trial.run(nests.map(on_error="collect"), [3, 62, 64, DEEP])
    assert found[:2] == [deep(3), deep(62)]
    for error in found[2:]:
        assert error.type == "egregore_dist.errors.EncodingError"
        assert "'nests' is nested too deeply" in error.message
    assert trial.serves(quick, within=10)


def test_values_of_every_kind(trial: Trial) -> None:
    """NaN and infinities, a mapping of a million keys, and many megabytes together come and go as they are."""
    floats = trial.run(same.map(), [math.nan, math.inf, -math.inf, {"a": math.nan}])
    assert math.isnan(floats[0])
    assert floats[1:3] == [math.inf, -math.inf]
    assert math.isnan(floats[3]["a"])

    many = {number: number for number in range(KEYS)}
    assert trial.run(parallel(same, keys), KEYS)["keys"] == many
    assert trial.run(same, many) == many
    # One by one these fit, and together they are one block's value all the same.
    found = trial.run(parallel(makes, makes.alias("more")), 40)
    assert {name: len(value) for name, value in found.items()} == {"makes": 40 * MB, "more": 40 * MB}
    assert trial.serves(quick, within=10)
