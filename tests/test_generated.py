"""No file that is written from the code says anything else than the code; and the matrix counts today's promises."""

import subprocess
import sys
from collections import Counter

import pytest

from bridge.matrix import conformance
from tests.generated import FILES, ROOT, classes, provider_of


@pytest.mark.parametrize("name", FILES)
def test_a_file_says_what_the_code_declares(name: str) -> None:
    assert (ROOT / name).read_text() == FILES[name](), "write it anew: make docs"


def test_the_matrix_counts_the_promises_that_the_kit_has_today() -> None:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:xdist", "tests/providers"]
    collected = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    promises = Counter(name for line in collected.splitlines() if "::" in line and (name := provider_of(line)))
    assert promises == {name: counted.promises for name, counted in conformance().items()}, "make docs RUN=1"
    assert set(promises) == {cls.name for cls in classes()}


def test_every_promise_is_kept() -> None:
    assert {name for name, counted in conformance().items() if counted.kept != counted.promises} == set()
