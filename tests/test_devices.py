"""The training step on one device and on several, at once and in parts; checkpoints restored on other devices."""

import json

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.slow

SCRIPT = ROOT / "tests" / "device_script.py"


@pytest.fixture(scope="module")
def found(tmp_path_factory, program):
    """The results of ``device_script``."""
    folder = tmp_path_factory.mktemp("devices")
    result = program(SCRIPT, folder, devices=8)
    assert result.returncode == 0, result.stderr
    return json.loads((folder / "found.json").read_text())


def test_both_streams_have_the_loss_and_the_step_of_one_device(found):
    one, eight = found["devices"]["1"], found["devices"]["8"]
    assert eight["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert one["moved"] > 1e-3
    assert eight["away"] < 1e-4 * one["moved"]


def test_a_batch_in_parts_on_several_devices_has_the_loss_of_the_whole_on_one(found):
    assert found["in parts"] == pytest.approx(found["whole"], rel=1e-5)


def test_a_checkpoint_is_restored_on_another_number_of_devices(found):
    assert found["restored"] == {"1": True, "4": True, "8": True}
