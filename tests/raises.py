"""Asserts on errors by their kind and the facts they name, never by their wording."""

import contextlib
from collections.abc import Iterator

import pytest

from tramp_jax.errors import UserError


@contextlib.contextmanager
def user_error(kind: str, *facts: object) -> Iterator[pytest.ExceptionInfo[UserError]]:
    """Expects a ``UserError`` of this kind whose message contains every fact: a file, an option, a value."""
    with pytest.raises(UserError) as caught:
        yield caught
    assert caught.value.kind == kind, f"kind is {caught.value.kind}: {caught.value}"
    for fact in facts:
        assert str(fact) in str(caught.value)
