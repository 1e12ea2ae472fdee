"""docs/reliability.md is what ``python -m tests.reliability`` writes, and every test that it names exists."""

from tests import reliability


def test_every_promise_has_its_tests():
    named = {test for rows in reliability.SECTIONS.values() for _, _, tests in rows for test in tests}
    assert named - reliability.homes().keys() == set()


def test_the_document_is_current():
    assert reliability.DOCUMENT.read_text(encoding="utf-8") == reliability.document(), "run python -m tests.reliability"
