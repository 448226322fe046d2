"""Fuzz one target in this process: ``python -m tests.fuzz.one TARGET [libFuzzer options] CORPUS``."""

from __future__ import annotations

import sys
import time

import atheris  # type: ignore[import-not-found, unused-ignore]

with atheris.instrument_imports(include=["egregore_dist"]):
    from tests.fuzz.targets import TARGETS

#: Seconds of processor time that decoding one input may take.
LONGEST = 1.0


def main() -> None:
    """Run until libFuzzer's own limits end it; an input that breaks a rule ends it with an exception."""
    target = TARGETS[sys.argv.pop(1)]

    def one(raw: bytes) -> None:
        begun = time.process_time()
        try:
            target.run(raw)
        except target.documented:
            pass
        took = time.process_time() - begun
        if took > LONGEST:
            raise TimeoutError(f"{len(raw)} bytes took {took:.2f} s")

    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


main()
