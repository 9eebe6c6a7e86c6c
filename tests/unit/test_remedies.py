"""The form of the remedies of errors."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import wgquick

ERROR = re.compile(r"(?<!Grammar)Error|not_up")
REMEDY = re.compile(r"|[A-Z`X].*(\.( X)?|: .+)")


def test_the_remedy_of_an_error_is_a_sentence_or_ends_in_words_to_type() -> None:
    """Of those that are written where the error is raised. The faults of a file have fragments."""
    found = [
        f"{path.name}: {text}"
        for path in Path(wgquick.__file__).parent.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(call, ast.Call) and ERROR.search(ast.unparse(call.func))
        for text in (_text(word.value) for word in call.keywords if word.arg == "remedy")
    ]
    assert len(found) > 50
    assert [each for each in found if not REMEDY.fullmatch(each.partition(": ")[2])] == []


def _text(value: ast.expr) -> str:
    """The text with `X` for each value in it; "" if it is not a literal."""
    if isinstance(value, ast.Constant):
        return str(value.value)
    if not isinstance(value, ast.JoinedStr):
        return ""
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in value.values)
