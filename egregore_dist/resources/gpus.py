"""The GPUs that a process may use: those that the system shows, as far as CUDA's own variable lets it see them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

_DEVICE = re.compile(r"nvidia(\d+)", re.ASCII)
_VISIBLE = "CUDA_VISIBLE_DEVICES"


def found(environment: Mapping[str, str] = os.environ, devices: Path = Path("/dev")) -> tuple[str, ...]:
    """The names of the GPUs that this process may use: their numbers, or as ``CUDA_VISIBLE_DEVICES`` names them.

    As in CUDA, what comes after an entry that names none does not count, and where two name one nothing does.
    """
    numbers = _numbers(devices)
    visible = environment.get(_VISIBLE)
    if visible is None:
        return tuple(map(str, numbers))
    names: list[str] = []
    for entry in map(str.strip, visible.split(",")):
        if entry.isascii() and entry.isdecimal():
            # It counts the devices that are there, whatever their own numbers.
            if int(entry) >= len(numbers):
                break
            names.append(str(int(entry)))
        elif numbers and entry.startswith(("GPU-", "MIG-")):
            names.append(entry)
        else:
            break
    return tuple(names) if len(set(names)) == len(names) else ()


def said(count: int | None) -> tuple[str, ...]:
    """The GPUs of a worker: as many as it was told to have, or, where that is None, those that are found."""
    there = found()
    if count is None:
        return there
    made_up = (str(number) for number in range(count) if str(number) not in there)
    return (*there[:count], *(name for name, _ in zip(made_up, range(count - len(there)), strict=False)))


def _numbers(devices: Path) -> list[int]:
    try:
        entries = [entry.name for entry in devices.iterdir()]
    except OSError:
        return []
    return sorted(int(match[1]) for name in entries if (match := _DEVICE.fullmatch(name)))
