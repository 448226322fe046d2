"""Functions on the wire: by reference, by signed value, or refused."""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import os
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from egregore_dist import errors
from egregore_dist.wire import code, registry, signing
from egregore_dist.workflow import nodes
from tests.support.secret import secret_of

SIGNER = signing.Signer([secret_of("mine").encode()])
NOBODY = signing.Signer([])


class Whole:
    def method(self) -> None: ...


MODULE = """
from os import system
import os
import json
from egregore_dist.workflow.nodes import node

def plain(x): return x + 1
def plain_helper(x): return x + 1

@node
def bare(x): return x + 2

@node("another_name")
def named(x): return x + 3

given_later = node("later")(plain)
anonymous = lambda x: x + 4

class Tools:
    value = 5
    @staticmethod
    def static(x): return x + 5
    @classmethod
    def made(cls, x): return x + cls.value
    def method(self, x): return x

def redefined(x): return 0
first = redefined
def redefined(x): return 1

def _private(x): return x + 6
def maker(n):
    def inner(x): return x + n
    return inner
def größe(x): return x + 7
plain_node = node("plain_node")(anonymous)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A package ``shop`` with the module ``shop.steps``, importable while the test runs."""
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "steps.py").write_text(MODULE)
    (folder / "unused.py").write_text("from egregore_dist.workflow.nodes import node\n@node\ndef f(x): return x\n")
    (folder / "broken.py").write_text("import does_not_exist_anywhere")
    (folder / "leaving.py").write_text("raise SystemExit(3)")
    (folder / "__main__.py").write_text("def f(x): return x")
    (tmp_path / "shopping.py").write_text("def buy(x): return x")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield importlib.import_module("shop.steps")
    for name in [name for name in sys.modules if name.partition(".")[0] in ("shop", "shopping")]:
        del sys.modules[name]


def loader(*modules: str, signer: signing.Signer = SIGNER) -> code.Loader:
    return code.Loader(signer, registry.NodeRegistry(modules).functions)


def journey(fn: Any) -> Any:
    shipped = code.ship(fn, SIGNER)
    return loader().load(shipped.ref, shipped.blob).fn


@pytest.mark.parametrize(
    ("name", "ref", "result"),
    [
        ("plain", "plain", 11),
        ("bare.fn", "bare", 12),
        ("named.fn", "named", 13),
        ("given_later.fn", "plain", 11),
        ("Tools.static", "Tools.static", 15),
        ("Tools.made", "Tools.made", 15),
        ("_private", "_private", 16),
        ("redefined", "redefined", 1),
    ],
)
def test_functions_of_modules_go_by_reference(package: Any, name: str, ref: str, result: int) -> None:
    """What a module holds under its own name is named, not copied, and needs no secret."""
    fn = functools.reduce(getattr, name.split("."), package)

    shipped = code.ship(fn, NOBODY)

    assert shipped == code.Shipped(f"m:shop.steps:{ref}", None)
    loaded = loader().load(shipped.ref, None, refusal=None)
    assert loaded.fn(10) == result
    assert loaded.hints is None


@pytest.mark.parametrize(
    ("name", "result"),
    [("anonymous", 14), ("first", 0), ("größe", 17), ("plain_node.fn", 14)],
)
def test_what_no_name_leads_to_goes_by_value(package: Any, name: str, result: int) -> None:
    """Lambdas, shadowed functions and names that are not ASCII go by value, signed, from modules too."""
    shipped = code.ship(functools.reduce(getattr, name.split("."), package), SIGNER)

    assert shipped.blob is not None
    assert shipped.ref == f"v:{hashlib.sha256(shipped.blob).hexdigest()}"
    assert loader().load(shipped.ref, shipped.blob).fn(10) == result


def test_closures_go_by_value(package: Any) -> None:
    """A closure takes what it closed over along."""
    assert journey(package.maker(90))(10) == 100


def test_bound_methods_and_partials_go_by_value(package: Any) -> None:
    """A method of an instance and a partial work like functions."""
    assert journey(package.Tools().method)(10) == 10
    assert journey(functools.partial(package.plain, x=4))() == 5


def test_a_module_made_by_hand_goes_by_value() -> None:
    """A module that no import finds cannot be named to a worker."""
    made = types.ModuleType("made_by_hand")
    exec("def f(x): return x * 2", made.__dict__)
    sys.modules["made_by_hand"] = made
    try:
        assert code.ship(made.f, SIGNER).ref.startswith("v:")
    finally:
        del sys.modules["made_by_hand"]


def test_by_value_is_never_cached() -> None:
    """A function whose helper changed is shipped with the helper as it is now."""
    main: dict[str, Any] = {"__name__": "__main__"}
    exec("def helper(): return 1\ndef f(): return helper()", main)
    before = code.ship(main["f"], SIGNER)
    exec("def helper(): return 2", main)
    after = code.ship(main["f"], SIGNER)

    assert before.ref != after.ref
    assert loader().load(after.ref, after.blob).fn() == 2
    assert loader().load(before.ref, before.blob).fn() == 1


def test_hints_travel() -> None:
    """A function that goes by value carries its annotations resolved, those of its closure included."""
    local = type("Local", (), {})

    def f(a: local, b: int, c: Missing, d: Path | None = None) -> None: ...  # type: ignore[valid-type, name-defined]  # noqa: F821

    f.__annotations__["a"] = local
    shipped = code.ship(f, SIGNER)
    hints = loader().load(shipped.ref, shipped.blob).hints

    assert hints is not None
    assert hints["b"] is int
    assert hints["d"] == Path | None
    assert str(hints["c"]) in ("Missing", "ForwardRef('Missing')")
    assert hints["a"].__name__ == "Local"


def test_a_node_reached_by_a_function_travels(package: Any) -> None:
    """A function may refer to a node of a module and to one beside it."""
    beside = nodes.node("beside")(lambda x: x * 10)

    def f(x: int) -> int:
        return int(package_bare(beside(x)))

    package_bare = package.bare

    assert journey(f)(1) == 12


@pytest.mark.parametrize(
    "fn", [lambda x: x, Whole().method, functools.partial(print)], ids=["lambda", "method", "partial"]
)
def test_by_value_needs_a_secret(fn: Any) -> None:
    """Without a secret, what cannot be named is refused where it is shipped, with both ways out."""
    with pytest.raises(errors.CodeError, match=r"function .* lives in .*Move it to a module.*set EGREGORE_SECRET"):
        code.ship(fn, NOBODY)


def test_the_home_of_a_script_is_named() -> None:
    """The error about a function of a script says __main__."""
    main: dict[str, Any] = {"__name__": "__main__"}
    exec("def mine(): ...", main)

    with pytest.raises(errors.CodeError, match=r"'mine' lives in __main__ \(a script or a notebook\)"):
        code.ship(main["mine"], NOBODY)


def test_what_cannot_be_pickled_is_named() -> None:
    """A function that holds a lock is refused with its name and the cause."""
    lock = threading.Lock()

    def holder() -> Any:
        return lock

    with pytest.raises(errors.CodeError, match=r"holder' cannot travel: TypeError: cannot pickle '_thread\.lock'"):
        code.ship(holder, SIGNER)


@pytest.mark.parametrize("modules", [("shop.steps",), ("shop",), ("other_shop", "shop")])
def test_nodes_of_listed_modules_load(package: Any, modules: tuple[str, ...]) -> None:
    """A node loads if its module is listed, or if a listed package holds its module and has imported it."""
    if "other_shop" in modules:
        sys.modules["other_shop"] = types.ModuleType("other_shop")
    try:
        assert loader(*modules).load("m:shop.steps:bare").fn is package.bare.fn
    finally:
        sys.modules.pop("other_shop", None)


@pytest.mark.parametrize("modules", [(), ("os",), ("shopping",)])
def test_other_modules_are_refused(package: Any, modules: tuple[str, ...]) -> None:
    """A function of a module that is not listed is refused, with the command that lists it; it is not imported."""
    del sys.modules["shop.steps"]
    refused = r"'bare' of module 'shop\.steps' is refused.*egregore-dist worker -m shop\.steps; or set EGREGORE_SECRET"
    with pytest.raises(errors.CodeError, match=refused):
        loader(*modules).load("m:shop.steps:bare")

    assert "shop.steps" not in sys.modules


def test_a_function_that_is_no_node_is_refused_with_the_cure(package: Any) -> None:
    """A plain function of a loaded module is refused by name: it is to be decorated, or the secret to be shared."""
    refused = (
        r"'plain_helper' of module 'shop\.steps' is refused: it is no node.*Decorate it with @node.*EGREGORE_SECRET"
    )
    with pytest.raises(errors.CodeError, match=refused):
        loader("shop.steps").load("m:shop.steps:plain_helper")


@pytest.mark.parametrize("signer", [SIGNER, NOBODY])
def test_signed_references_open_with_their_secret_alone(signer: signing.Signer) -> None:
    """References keep their order; their signature is accepted where the secret is known, and only there."""
    refs = ("m:shop:a", "v:" + "0" * 64, "m:shop:b")
    encoded = code.encode_references(refs, SIGNER)

    opened = loader(signer=signer).references(encoded)

    assert opened.refs == refs == code.decode_references(encoded)
    assert (opened.refusal is None) == signer.can_sign


@pytest.mark.parametrize("refs", [(), ("m:a:b",), ("m:a:b", "m:c:d", "m:e:f")])
def test_references_without_a_secret_are_plain(refs: tuple[str, ...]) -> None:
    """A client without a secret sends bare references, which no worker takes for signed ones."""
    encoded = code.encode_references(refs, NOBODY)

    assert msgspec.msgpack.decode(encoded) == list(refs)
    assert loader().references(encoded) == code.References(refs, code.UNSIGNED)
    assert not code.is_signed(encoded)


@given(st.data())
def test_s5_changed_references_are_not_accepted(data: st.DataObject) -> None:
    """Whichever byte of signed references is changed, their signature is not accepted."""
    encoded = bytearray(code.encode_references(("m:shop:a",), SIGNER))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        opened = loader().references(bytes(encoded))
    except msgspec.MsgspecError:
        return
    assert opened.refusal is not None


def test_s5_a_signature_for_another_purpose_is_not_accepted() -> None:
    """A signed function cannot stand for signed references, nor another secret's references for ours."""
    raw = msgspec.msgpack.encode(["m:os:getcwd"])

    assert loader().references(SIGNER.sign("code", raw)).refusal is not None
    forged = code.encode_references(["m:os:getcwd"], signing.Signer([secret_of("theirs").encode()]))
    assert loader().references(forged).refusal is not None


@pytest.mark.parametrize(
    "ref",
    [
        "m:os:system",
        "m:builtins:eval",
        "m:shop.steps:_private",
        "m:shop.steps:redefined",
        "m:shop.steps:Tools",
        "m:shop.steps:Tools.static",
        "m:shop.steps:Tools.made",
        "m:shop.unused:f",
        "m:shop.unused:g",
        "m:subprocess:run",
        "m:shop.steps:system",
        "m:shop.steps:os.system",
        "m:shop.steps:json.loads",
        "m:shop.steps:Tools.value",
        "m:shop.steps:missing",
        "m:shop.steps:maker.inner",
        "m:shop.steps:anonymous",
        "m:shop.steps:first",
        "m:shop.steps:given_later",
        "m:shop.steps:bare.fn",
        "m:shop.steps:plain.__call__",
        "m:shop.steps:__init__",
        "m:shop.steps:__builtins__",
        "m:shop.steps:Tools.__init__",
        "m:shop.steps:maker.<locals>.inner",
        "m:shop.steps:größe",
        "m:shop.steps:plаin",  # noqa: RUF001  # Cyrillic
        "m:shop․steps:plain",  # noqa: RUF001  # a dot leader
        "m:shop.steps:ｐlain",  # noqa: RUF001  # a full-width letter
        "m:shop.__main__:f",
        "m:__main__:f",
        "m:shop.steps:plain\n",
        "m:shop.steps:plain:more",
        "m:shop..steps:plain",
        "m:.shop:plain",
        "m:shop.steps:",
        "m::plain",
        "m:shop.steps",
        "shop.steps:plain",
        "os:system",
        "M:shop.steps:plain",
        "v:",
        "v:" + "0" * 63,
        "v:" + "A" * 64,
        "",
    ],
)
def test_s5_what_is_not_registered_is_refused(package: Any, ref: str) -> None:
    """A reference that is no registered node's is refused, and nothing is imported for it."""
    refusing = loader("shop")
    imported = set(sys.modules)
    with pytest.raises(errors.CodeError):
        refusing.load(ref)

    assert set(sys.modules) == imported


@pytest.mark.parametrize("ref", ["m:__main__:f", "m:os:system", "m:shop.__main__:f", "m:json:codecs.open"])
def test_signed_references_name_functions_of_their_own_module(package: Any, ref: str) -> None:
    """Under a signature too, __main__ and what a module only imported are refused."""
    with pytest.raises(errors.CodeError):
        loader().load(ref, refusal=None)


def test_s5_a_signed_reference_opens_nothing_for_others(package: Any) -> None:
    """What was loaded for a signed run is still refused to an unsigned one."""
    shared = loader("shop.steps")
    assert shared.load("m:shop.steps:_private", refusal=None).fn(1) == 7

    with pytest.raises(errors.CodeError, match="no node"):
        shared.load("m:shop.steps:_private")


@given(st.text())
def test_any_reference_is_refused_or_found(ref: str) -> None:
    """No text as a reference ends in another error than CodeError."""
    with pytest.raises(errors.CodeError):
        loader().load(ref, refusal=None)
    with pytest.raises(errors.CodeError):
        loader().load(f"m:shop:{ref}")


@pytest.mark.parametrize(
    ("module", "cause"),
    [
        ("shop.broken", "ModuleNotFoundError: No module named 'does_not_exist_anywhere'"),
        ("shop.leaving", "SystemExit: 3"),
        ("shop.absent", "ModuleNotFoundError: No module named 'shop.absent'"),
    ],
)
def test_a_failing_import_is_named(package: Any, module: str, cause: str) -> None:
    """A module that cannot be imported says so and why, when it is used and when a worker starts."""
    with pytest.raises(errors.CodeError, match=f"module '{module}' cannot be imported: {cause}"):
        loader().load(f"m:{module}:f", refusal=None)
    with pytest.raises(errors.CodeError, match=f"module '{module}' cannot be imported: {cause}"):
        loader("shop", module)


def test_modules_are_loaded_at_start(package: Any) -> None:
    """A worker imports each listed module when it starts."""
    registry.load(["shopping"])

    assert "shopping" in sys.modules


def shipped_lambda() -> code.Shipped:
    return code.ship(lambda: 7, SIGNER)


def test_by_value_is_loaded_once(tmp_path: Path) -> None:
    """A function that came by value is unpickled once, and after that needs no blob."""
    shipped = shipped_lambda()
    known = loader()

    assert known.load(shipped.ref, shipped.blob) is known.load(shipped.ref, None)


def test_the_least_recent_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loader keeps a limited number of functions, the most recent ones."""
    monkeypatch.setattr(code, "CACHE_SIZE", 2)
    known = loader()
    first, second, third = (code.ship(functools.partial(int, text), SIGNER) for text in "123")
    for shipped in (first, second, first, third):
        known.load(shipped.ref, shipped.blob)

    assert known.load(first.ref, None).fn() == 1
    with pytest.raises(errors.CodeError, match="is missing"):
        known.load(second.ref, None)


def test_another_secret_is_refused_by_name() -> None:
    """A worker with another secret, or none, names the function that it refuses, and the cure."""
    shipped = code.ship(sample_maker(), SIGNER)

    for other in (signing.Signer([secret_of("another").encode()]), NOBODY):
        with pytest.raises(errors.CodeError, match=r"function '.*sample' is refused: .*Set EGREGORE_SECRET"):
            loader(signer=other).load(shipped.ref, shipped.blob)


def sample_maker() -> Any:
    def sample() -> int:
        return 1

    return sample


def test_a_blob_under_another_digest_is_refused() -> None:
    """The reference names the content: another blob under it is refused."""
    one, other = code.ship(lambda: 1, SIGNER), code.ship(lambda: 2, SIGNER)

    with pytest.raises(errors.CodeError, match="not what its name says"):
        loader().load(one.ref, other.blob)


@given(st.data())
def test_a_changed_blob_is_not_unpickled(data: st.DataObject) -> None:
    """Whichever byte of a blob is changed, with its digest made to match, nothing of it is run."""
    blob = bytearray(BLOB)
    blob[data.draw(st.integers(0, len(blob) - 1))] ^= data.draw(st.integers(1, 255))

    with pytest.raises(errors.CodeError, match="is refused"):
        loader().load(f"v:{hashlib.sha256(blob).hexdigest()}", bytes(blob))


BLOB = shipped_lambda().blob or b""


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def test_s1_an_unsigned_pickle_does_nothing(tmp_path: Path) -> None:
    """A pickle that runs a command does not run, bare, wrapped, signed with another secret or for another purpose."""
    mark = tmp_path / "mark"
    pickled = cloudpickle.dumps(Bomb(mark))
    package = msgspec.msgpack.encode((sys.version_info[:2], "bomb", pickled))
    forger = signing.Signer([secret_of("theirs").encode()])
    for blob in (
        pickled,
        package,
        forger.sign("code", package),
        SIGNER.sign("other", package),
        SIGNER.sign("code", pickled),
    ):
        with pytest.raises(errors.CodeError, match="is refused"):
            loader().load(f"v:{hashlib.sha256(blob).hexdigest()}", blob)

    assert not mark.exists()


def test_the_bomb_would_have_gone_off(tmp_path: Path) -> None:
    """The same pickle, signed with our own secret, does write its file: the signature is what stops it."""
    mark = tmp_path / "mark"
    package = msgspec.msgpack.encode((sys.version_info[:2], "bomb", cloudpickle.dumps(Bomb(mark))))
    blob = SIGNER.sign("code", package)
    with pytest.raises(errors.CodeError, match="'bomb' cannot be loaded here"):
        loader().load(f"v:{hashlib.sha256(blob).hexdigest()}", blob)

    assert mark.exists()


def test_another_python_is_refused_before_unpickling(tmp_path: Path) -> None:
    """Code of another Python version is refused with both versions: its bytecode means something else here."""
    mark = tmp_path / "mark"
    package = msgspec.msgpack.encode(((3, 1), "old", cloudpickle.dumps(Bomb(mark))))
    blob = SIGNER.sign("code", package)
    with pytest.raises(errors.CodeError, match=r"'old' was sent by Python 3\.1, this worker runs 3\.\d+"):
        loader().load(f"v:{hashlib.sha256(blob).hexdigest()}", blob)

    assert not mark.exists()


def test_a_missing_import_is_named(package: Any) -> None:
    """A function whose module the worker lacks is refused with its name, the cause and the cure."""
    shipped = code.ship(functools.partial(package.plain), SIGNER)
    for name in ("shop", "shop.steps"):
        del sys.modules[name]
    sys.path.remove(str(Path(package.__file__).parent.parent))
    importlib.invalidate_caches()

    with pytest.raises(errors.CodeError, match=r"'partial' cannot be loaded here: ModuleNotFoundError.*Install"):
        loader().load(shipped.ref, shipped.blob)
    sys.path.insert(0, str(Path(package.__file__).parent.parent))


def test_library_functions_go_by_reference() -> None:
    """A function of the standard library is named, where its own module is the one it says."""
    assert code.ship(json.loads, NOBODY).ref == "m:json:loads"
    assert loader().load("m:json:loads", refusal=None).fn is json.loads
