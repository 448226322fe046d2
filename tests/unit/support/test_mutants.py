"""The list of mutations fits the code that it changes."""

from __future__ import annotations

import pytest

from tests.mutants.__main__ import ROOT
from tests.mutants.mutations import MUTATIONS, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: str(mutation.name))
def test_a_mutation_fits_the_code(mutation: Mutation) -> None:
    """What it replaces stands once in its file, and the tests that have to notice are there."""
    assert (ROOT / mutation.file).read_text("utf-8").count(mutation.old) == 1
    assert mutation.old != mutation.new
    assert all((ROOT / test.partition("::")[0]).exists() for test in mutation.tests if test.startswith("tests/"))
