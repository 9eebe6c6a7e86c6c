"""Where tests keep what they share."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_no_module_imports_a_test_module() -> None:
    """What several modules use is in a module whose name does not start with `test_`.

    Modules of tests/kernel import whole test modules, because the VM runs the tests in them.
    """
    found = [
        f"{path.relative_to(TESTS)}: {line.strip()}"
        for path in sorted(TESTS.rglob("*.py"))
        for line in path.read_text().splitlines()
        if re.match(r"\s*(from|import) tests\.[\w.]*\btest_", line)
        or (path.parent.name != "kernel" and re.match(r"\s*from tests[\w.]* import .*\btest_", line))
    ]
    assert found == []
