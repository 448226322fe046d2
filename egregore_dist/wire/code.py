"""Code on the wire: functions by reference where they can be imported, by signed value where they cannot.

This is the only module that unpickles, and only what its signer has opened.
"""

from __future__ import annotations

import copyreg
import hashlib
import importlib
import importlib.util
import inspect
import io
import re
import sys
import threading
import types
import typing
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import msgspec

from egregore_dist import errors
from egregore_dist.wire import leaves, signing, structs
from egregore_dist.workflow import hints

CACHE_SIZE = 512
"""How many functions a `Loader` keeps."""

LARGEST_REFERENCES = 16 * 2**20
"""How many bytes the references of a run may take."""

_PURPOSE = "code"
_REFERENCES = "references"
UNSIGNED = "the client sent it without a signature"
# ASCII alone, so that look-alikes are refused; names with two leading underscores are the interpreter's own.
_NAME = r"(?!__)[A-Za-z_][A-Za-z0-9_]*"
_REFERENCE = re.compile(rf"m:({_NAME}(?:\.{_NAME})*):({_NAME}(?:\.{_NAME})*)", re.ASCII)
_VALUE = re.compile(r"v:([0-9a-f]{64})", re.ASCII)
# How an object is made anew of which nothing but its class is known.
_NEW = copyreg.__newobj__  # type: ignore[attr-defined]  # not in typeshed
_PYTHON = sys.version_info[:2]
# What msgspec leaves on a class that it has converted to: it cannot travel, and is made anew where it is missing.
_MSGSPEC_CACHE = "__msgspec_cache__"


@dataclass(frozen=True, slots=True)
class Shipped:
    """A function as it travels.

    Attributes:
        ref: ``"m:module:qualified.name"``, or ``"v:<sha256 of the blob>"``.
        blob: the signed function, or None for a reference.
    """

    ref: str
    blob: bytes | None


@dataclass(frozen=True, slots=True)
class Loaded:
    """A function as it arrived.

    Attributes:
        fn: the function.
        hints: the annotations of its parameters as they were resolved where it was written; None: resolve them here.
    """

    fn: Callable[..., Any]
    hints: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class References:
    """The references to a run's functions, in the order of its spec.

    Attributes:
        refs: the references.
        refusal: why their signature was not accepted; None if it was.
    """

    refs: tuple[str, ...]
    refusal: str | None


class _Package(msgspec.Struct, frozen=True, array_like=True):
    """What is signed: ``content`` is the pickle of (function, hints, annotations of its classes)."""

    python: tuple[int, int]
    name: str
    content: bytes


def ship(fn: Callable[..., Any], signer: signing.Signer) -> Shipped:
    """How ``fn`` travels: as a reference to its module, or else by value, signed.

    Workers without the secret of this client accept a reference only if their `NodeRegistry` has it.

    Args:
        fn: a function, as the user wrote it.
        signer: signs what goes by value.

    Raises:
        CodeError: it must go by value, but there is no secret, or it cannot be pickled.
    """
    ref = reference(fn)
    if ref is not None:
        return Shipped(ref, None)
    name = _name_of(fn)
    if not signer.can_sign:
        raise errors.CodeError(
            f"function {name!r} lives in {_home(fn)}, so its code must travel, and code travels only signed. "
            "Move it to a module that the workers load, or set EGREGORE_SECRET to one value on clients and workers."
        )
    # Never cached: a notebook may have redefined what the function refers to.
    annotations = hints.hints_of(fn)
    try:
        content = _pickled((fn, annotations, _annotations_of_classes(annotations)))
    except Exception as cause:
        raise errors.CodeError(
            f"function {name!r} cannot travel: {type(cause).__name__}: {cause}. "
            "It, or what it refers to, holds something that stays in its process (a lock, an open file, a connection): "
            "make that inside the function, or move the function to a module that the workers load."
        ) from cause
    blob = signer.sign(_PURPOSE, msgspec.msgpack.encode(_Package(_PYTHON, name, content)))
    return Shipped(f"v:{hashlib.sha256(blob).hexdigest()}", blob)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    def reducer_override(self, obj: Any) -> Any:
        reduced = super().reducer_override(obj)
        if reduced is NotImplemented and (name := _sentinel_name(obj)) is not None:
            return name
        if not isinstance(obj, type) or not isinstance(reduced, tuple) or len(reduced) < 3:
            return reduced
        # Else a class inside of a function, or of another class, would have another name there.
        maker, arguments, (attributes, slots), *rest = reduced
        own = {name: value for name, value in attributes.items() if name != _MSGSPEC_CACHE}
        reduced = (maker, arguments, ({**own, "__qualname__": obj.__qualname__}, slots), *rest)
        return structs.reduction(obj, reduced) if isinstance(obj, structs.StructMeta) else reduced


def _sentinel_name(value: Any) -> str | None:
    """The name of ``value`` in the module of its class, where all that tells it from others is which object it is.

    A copy of ``dataclasses.MISSING`` would be taken for a field's default.
    """
    kind: Any = type(value)
    if isinstance(value, type | types.FunctionType) or getattr(value, "__dict__", None):
        return None
    is_plain = kind.__reduce_ex__ is object.__reduce_ex__ and kind.__reduce__ is object.__reduce__
    if not is_plain or kind in _Pickler.dispatch_table:
        return None
    if value.__reduce_ex__(cloudpickle.DEFAULT_PROTOCOL) != (_NEW, (kind,), None, None, None):
        return None
    held = vars(sys.modules.get(kind.__module__, kind))
    name = next((name for name, other in list(held.items()) if other is value), None)
    return name if name is not None and _is_importable(kind.__module__) else None


def _pickled(value: Any) -> bytes:
    with io.BytesIO() as file:
        _Pickler(file).dump(value)
        return file.getvalue()


def encode_references(refs: Sequence[str], signer: signing.Signer) -> bytes:
    """A run's references as its record holds them: signed, if there is a secret.

    Raises:
        WorkflowError: they are larger than `decode_references` reads.
    """
    raw = msgspec.msgpack.encode(refs)
    if signer.can_sign:
        raw = signer.sign(_REFERENCES, raw)
    if len(raw) > LARGEST_REFERENCES:
        raise errors.WorkflowError(
            f"the names of the workflow's {len(refs)} functions take {len(raw)} bytes, and at most "
            f"{LARGEST_REFERENCES} are stored. Use fewer functions, or split the workflow into several"
        )
    return raw


def is_signed(raw: bytes) -> bool:
    """Whether references were signed, by whomever."""
    return signing.unverified(raw) is not None


def decode_references(raw: bytes) -> tuple[str, ...]:
    """The references that `encode_references` encoded, whoever signed them: to show, never to run.

    Raises:
        msgspec.MsgspecError: ``raw`` is something else, or larger than references may be.
    """
    if len(raw) > LARGEST_REFERENCES:
        raise msgspec.ValidationError(f"references have at most {LARGEST_REFERENCES} bytes, and these have {len(raw)}")
    try:
        return msgspec.msgpack.decode(signing.unverified(raw) or raw, type=tuple[str, ...])
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(str(error)) from None


class Loader:
    """Loads what `ship` shipped, and refuses the rest.

    Args:
        signer: opens what was signed.
        functions: the functions that may be named without a signature, by reference; see `NodeRegistry`.
    """

    def __init__(self, signer: signing.Signer, functions: Mapping[str, Callable[..., Any]]) -> None:
        self._signer = signer
        self._functions = functions
        self._known: OrderedDict[str, Loaded] = OrderedDict()
        self._lock = threading.RLock()

    def references(self, raw: bytes) -> References:
        """Decode a run's references, and verify their signature.

        Raises:
            msgspec.MsgspecError: ``raw`` was not made by `encode_references`.
        """
        refs = decode_references(raw)
        if not is_signed(raw):
            return References(refs, UNSIGNED)
        try:
            self._signer.open(_REFERENCES, raw)
        except errors.CodeError as refusal:
            return References(refs, str(refusal))
        return References(refs, None)

    def load(self, ref: str, blob: bytes | None = None, *, refusal: str | None = UNSIGNED) -> Loaded:
        """The function that ``ref`` names or ``blob`` holds; the most recent `CACHE_SIZE` are kept.

        Args:
            ref: the reference.
            blob: the signed function, for a reference by value.
            refusal: why the signature of the reference was not accepted. None if it was accepted: any function of a
                module may be named then, since its signer could as well ship the function by value.

        Raises:
            CodeError: it is refused, or cannot be loaded; says why, and the cure.
        """
        registered = self._functions.get(ref)
        if registered is not None:
            return Loaded(registered, None)
        named = _REFERENCE.fullmatch(ref)
        if named and refusal is not None:
            raise errors.CodeError(_unregistered(named[1], named[2], refusal))
        with self._lock:
            loaded = self._known.get(ref)
            if loaded is None:
                loaded = self._known[ref] = self._load(ref, blob)
                if len(self._known) > CACHE_SIZE:
                    self._known.popitem(last=False)
            self._known.move_to_end(ref)
            return loaded

    def _load(self, ref: str, blob: bytes | None) -> Loaded:
        if match := _REFERENCE.fullmatch(ref):
            return Loaded(_imported(match[1], match[2]), None)
        if match := _VALUE.fullmatch(ref):
            return self._unpacked(match[1], blob)
        raise errors.CodeError(f"{ref!r:.200} is not a reference to code; it is refused.")

    def _unpacked(self, digest: str, blob: bytes | None) -> Loaded:
        if blob is None:
            raise errors.CodeError(f"the code v:{digest} is missing: it expired, or was deleted. Submit the run again.")
        if hashlib.sha256(blob).hexdigest() != digest:
            raise errors.CodeError(f"the code v:{digest} is not what its name says: it was changed. It is refused.")
        try:
            package = _package(self._signer.open(_PURPOSE, blob))
        except errors.CodeError as refusal:
            raise errors.CodeError(f"function {_claimed_name(blob)} is refused: {refusal}") from None
        if package.python != _PYTHON:
            raise errors.CodeError(
                f"function {package.name!r} was sent by Python {_dotted(package.python)}, this worker runs "
                f"{_dotted(_PYTHON)}. Code that travels by value needs the same version; or move it to a module."
            )
        try:
            fn, annotations, of_classes = cloudpickle.loads(package.content)
            for kind, resolved in of_classes:
                kind.__annotations__ = {**inspect.get_annotations(kind), **resolved}
        except Exception as cause:
            raise errors.CodeError(
                f"function {package.name!r} cannot be loaded here: {type(cause).__name__}: {cause}. "
                "Install what it imports on the workers."
            ) from cause
        return Loaded(fn, annotations)


def _imported(module: str, qualname: str) -> Callable[..., Any]:
    """A function by its signed reference."""
    fn = _resolve(import_module(module), qualname)
    # what a module merely imported, such as os.system, is not its own
    if not callable(fn) or _identity(fn) != (module, qualname):
        raise errors.CodeError(
            f"module {module!r} has no function {qualname!r} of its own. "
            "Do client and worker have the same version of it? Deploy it again and restart the workers."
        )
    return fn  # type: ignore[no-any-return]


def _unregistered(module: str, qualname: str, refusal: str) -> str:
    """Why a function is refused that this worker has not registered, and the cures."""
    if module in sys.modules:
        why = f"it is no node of a module that this worker was started with ({refusal})"
        cure = f"Decorate it with @node in module {module!r}, deploy that and start the workers with -m {module}"
    else:
        why = f"this worker does not load module {module!r} ({refusal})"
        cure = f"Start it with: egregore-dist worker -m {module}"
    return (
        f"function {qualname!r} of module {module!r} is refused: {why}. "
        f"{cure}; or set EGREGORE_SECRET to one value on clients and workers."
    )


def reference(fn: Callable[..., Any]) -> str | None:
    """The reference that leads to ``fn`` in any process that can import its module, or None."""
    module, qualname = _identity(fn)
    ref = f"m:{module}:{qualname}"
    if _REFERENCE.fullmatch(ref) is None or not _is_importable(module):
        return None
    found = _resolve(sys.modules[module], qualname)
    # a method of a class is made anew each time it is looked up
    return ref if found is fn or (inspect.ismethod(fn) and found == fn) else None


def _is_importable(module: str) -> bool:
    if module in ("__main__", "__mp_main__") or module not in sys.modules:
        return False
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        # a module made by hand has no spec
        return False


def _resolve(module: object, qualname: str) -> Any:
    """What ``qualname`` names in ``module``: through classes only, never from module to module."""
    found: Any = module
    for position, name in enumerate(qualname.split(".")):
        if position and not isinstance(found, type):
            return None
        found = getattr(found, name, None)
    # a node or a decision stands where its function was written
    inner = getattr(found, "fn", None)
    return inner if callable(inner) and not inspect.isroutine(found) else found


def _identity(fn: Any) -> tuple[str, str]:
    return str(getattr(fn, "__module__", None)), str(getattr(fn, "__qualname__", None))


def import_module(module: str) -> Any:
    """Import a module.

    Raises:
        CodeError: it cannot be imported; says why.
    """
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as cause:
        raise errors.CodeError(
            f"module {module!r} cannot be imported: {type(cause).__name__}: {cause}. "
            "Install it where the worker runs, or start the worker in the folder that holds it."
        ) from cause


def _package(payload: bytes) -> _Package:
    try:
        return msgspec.msgpack.decode(payload, type=_Package)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise errors.CodeError("what was signed is not a function") from None


def _claimed_name(blob: bytes) -> str:
    """The name that a refused function gives itself."""
    try:
        return f"{_package(signing.unverified(blob) or b'').name!r:.128}"
    except errors.CodeError:
        return "of unknown name"


def _name_of(fn: Callable[..., Any]) -> str:
    return str(getattr(fn, "__qualname__", None) or type(fn).__qualname__)


def _home(fn: Callable[..., Any]) -> str:
    module = getattr(fn, "__module__", None) or type(fn).__module__
    if module in ("__main__", "__mp_main__"):
        return "__main__ (a script or a notebook)"
    return f"module {module!r} where no import finds it (a lambda, a closure, or redefined)"


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(str(part) for part in version)


def _annotations_of_classes(annotations: dict[str, Any]) -> list[tuple[type, dict[str, Any]]]:
    """Resolved annotations of the classes that travel by value: there, the names they use mean nothing."""
    found: dict[type, dict[str, Any]] = {}
    pending = list(annotations.values())
    while pending:
        hint = pending.pop()
        pending.extend(typing.get_args(hint))
        # A generic class with its arguments stands for the class itself.
        hint = typing.get_origin(hint) or hint
        if not isinstance(hint, type) or hint in found or reference(hint) is not None:
            continue
        own = inspect.get_annotations(hint)
        resolved = {name: kind for name, kind in leaves.hints_of(hint).items() if name in own}
        found[hint] = resolved
        pending.extend(resolved.values())
        pending.extend(hint.__bases__)
    return [(kind, resolved) for kind, resolved in found.items() if resolved]
