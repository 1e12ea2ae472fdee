"""Parity with the released code on the golden cases, at their stated tolerances."""

import pytest

from tests.golden.cases import CASES

pytestmark = pytest.mark.usefixtures("optimised")  # as users run them
SLOW = {"train_step_t64", "tramp_former_t128, frames as released"}


@pytest.mark.parametrize("case", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CASES])
def test_case_is_within_its_tolerance(case):
    rows = list(CASES[case]())
    assert rows
    for row in rows:
        assert row.error <= row.tolerance, row
