"""The registry of a worker: the nodes and decisions of its modules, and nothing else."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from egregore_dist import errors
from egregore_dist.wire import code, registry, signing

FLOWS = """
import math
from egregore_dist import Sequence, decision, node, parallel
from shop.steps import fetch, maybe

def helper(x): return x
def _private(x): return x
class Tools:
    @staticmethod
    def static(x): return x
    @node
    def inside(x): return x
def one(x): return x
def two(x): return x
def three(x): return x
def four(x): return x
def five(x): return x
def never(x): return x

@decision
def choose(x): return "three"

flow = Sequence(node("one")(one), parallel(node("two")(two), node("lambda")(lambda x: x)).alias("both"))
choice = choose.to(three=node("three")(three), four=node("four")(four))
many = node("five")(five).map()
root = node("root")(math.sqrt)

def at_run_time(x):
    return node("never")(never)
"""
STEPS = """
from egregore_dist import decision, node

@node
def fetch(x): return x
@node
def unused_by_flows(x): return x
@decision
def maybe(x): return "fetch"
def plain(x): return x
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package ``shop`` with two modules and a third that nothing imports."""
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "flows.py").write_text(FLOWS)
    (folder / "steps.py").write_text(STEPS)
    (folder / "later.py").write_text("from egregore_dist import node\n@node\ndef late(x): return x\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "shop"]:
        del sys.modules[name]


OF_FLOWS = {
    "m:shop.flows:Tools.inside",
    "m:shop.flows:choose",
    "m:shop.flows:five",
    "m:shop.flows:four",
    "m:shop.flows:one",
    "m:shop.flows:three",
    "m:shop.flows:two",
    "m:math:sqrt",
    "m:shop.steps:fetch",
    "m:shop.steps:maybe",
}


def test_s5_a_worker_serves_registered_nodes_only(shop: None) -> None:
    """The table holds the nodes and decisions of the listed module, those inside of its workflows, and no others."""
    registered = registry.NodeRegistry(["shop.flows"])

    assert set(registered.functions) == OF_FLOWS
    names = [step.name for step in registered]
    assert sorted(names) == sorted(
        ["fetch", "maybe", "inside", "choose", "choose", "one", "two", "lambda", "three", "four", "five", "root"]
    )


def test_a_package_has_the_nodes_of_its_imported_modules(shop: None) -> None:
    """A listed package has the nodes of those of its modules that are imported, and of no others."""
    assert not registry.NodeRegistry(["shop"]).functions
    importlib.import_module("shop.steps")

    functions = registry.NodeRegistry(["shop"]).functions

    assert set(functions) == {"m:shop.steps:fetch", "m:shop.steps:unused_by_flows", "m:shop.steps:maybe"}


def test_s5_the_registry_is_frozen(shop: None) -> None:
    """What is imported or defined later is not served, and the table takes no entry."""
    registry.of.cache_clear()
    registered = registry.of(("shop",))
    later = importlib.import_module("shop.later")
    later.another = later.late.alias("another")

    assert registry.of(("shop",)) is registered
    assert not registered.functions
    with pytest.raises(TypeError):
        registered.functions["m:shop.later:late"] = later.late.fn  # type: ignore[index]
    with pytest.raises(errors.CodeError, match="no node of a module that this worker was started with"):
        code.Loader(signing.Signer([]), registered.functions).load("m:shop.later:late")


def test_the_clients_reference_is_the_registrys(shop: None) -> None:
    """A client's reference to a node leads to the function of the node that the worker has."""
    registered = registry.NodeRegistry(["shop.flows"])
    nobody = signing.Signer([])
    by_reference = [step for step in registered if step.name != "lambda"]

    for step in by_reference:
        assert code.Loader(nobody, registered.functions).load(code.ship(step.fn, nobody).ref).fn is step.fn


def test_a_module_that_cannot_be_imported_is_named(shop: None) -> None:
    """A listed module that cannot be imported is an error that names it."""
    with pytest.raises(errors.CodeError, match=r"module 'shop\.gone' cannot be imported"):
        registry.NodeRegistry(["shop.gone"])
