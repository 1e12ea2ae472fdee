"""Nothing leaves the machine, and nothing is written outside what the user named."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

# What ``tramp-jax score`` does on a CPU, without the model: the runtime is imported and computes.
SESSION = """
import sys
from onnx import TensorProto, helper
from tramp_jax.scoring.onnx_judge import open_session
one = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
two = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [one], [two])
model = helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 20)])
open_session(model.SerializeToString()).run(None, {"x": __import__("numpy").zeros(1, "float32")})
"""


@pytest.mark.parametrize("setting", ["0", pytest.param(None, marks=pytest.mark.slow)])
def test_the_onnx_runtime_writes_no_device_id_and_no_queue(tmp_path, setting):
    """Its telemetry client leaves both in the user's cache folder, whatever the user's environment says."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "ORT_"))}
    environment |= {"HOME": str(home), "JAX_PLATFORMS": "cpu"}
    if setting is not None:
        environment["ORT_DISABLE_TELEMETRY"] = setting
    subprocess.run([sys.executable, "-c", SESSION], env=environment, cwd=ROOT, check=True, capture_output=True)
    assert [path for path in home.rglob("*") if path.is_file()] == []
