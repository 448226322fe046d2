"""Labels: what a node asks of a worker beyond its size, and a worker says of itself, each as ``key=value``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from egregore_dist import errors
from egregore_dist.workflow import names

#: Letters that all labels of a node may have together: they are part of the name of a queue, which brokers bound.
LONGEST = 90


def of_node(labels: object, where: str) -> tuple[str, ...]:
    """The labels of a node as ``key=value``, sorted.

    Raises:
        errors.WorkflowError: they are no mapping of names to names, or too long together.
    """
    if not isinstance(labels, Mapping) or not labels:
        raise errors.WorkflowError(
            f"{where} takes a mapping of one or more labels, not {names.shortened(labels)}: labels={{'zone': 'eu'}}"
        )
    found = tuple(
        sorted(
            f"{names.checked(key, f'label ({where})')}={names.checked(value, f'value of label {key!r} ({where})')}"
            for key, value in labels.items()
        )
    )
    if sum(map(len, found)) > LONGEST:
        raise errors.WorkflowError(f"{where}: the labels may have {LONGEST} letters together, not more")
    return found


def of_worker(said: Iterable[str]) -> tuple[str, ...]:
    """What a worker was told to say, each as ``key=value``; sorted, and each once.

    Raises:
        ValueError: one is not ``key=value``.
    """
    found = set()
    for label in said:
        key, _, value = label.partition("=")
        try:
            found.add(f"{names.checked(key, 'label')}={names.checked(value, 'label')}")
        except errors.WorkflowError:
            raise ValueError(
                f"{names.shortened(label)} is no label: write key=value, "
                f"each of 1 to {names.MAX_LENGTH} letters, digits, '_', '.' and '-'"
            ) from None
    return tuple(sorted(found))
