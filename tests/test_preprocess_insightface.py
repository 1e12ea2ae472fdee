"""Runs the InsightFace source through the real library, on stand-in models with the same names and signatures.

The detector returns the same faces for every picture. The landmark model returns a fixed pattern, shifted by how red
its input is, so the right position of each point is known.
"""

import hashlib
import http.server
import io
import shutil
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.raises import user_error
from tramp_jax.preprocess import SourceOptions, open_landmark_source
from tramp_jax.preprocess.sources import insightface

pytest.importorskip("onnx", reason='onnx is not installed: pip install "tramp_jax[insightface]"')
pytest.importorskip("insightface", reason='InsightFace is not installed: pip install "tramp_jax[insightface]"')
from onnx import TensorProto, helper, numpy_helper, save_model

BOX = (200.0, 120.0, 360.0, 320.0)  # in the detector's input of 640×640
PATTERN = np.random.default_rng(0).uniform(-0.6, 0.6, 212).astype(np.float32)
# Points in space: all in one plane that rises to the right and to the bottom; the nose is higher than the ears.
_FLAT = np.random.default_rng(1).uniform(-0.6, 0.6, (68, 2))
_FLAT[[0, 16, 30]] = (-0.5, -0.4), (-0.3, 0.1), (0.2, 0.1)
SPACE = np.column_stack([_FLAT, _FLAT @ (0.5, 0.25) + 0.1])
REDNESS = 0.05  # shift of the landmark model's output for an entirely red input


def detector_model(path: Path, boxes) -> None:
    """SCRFD with nine outputs: score, box and five points for two anchors per cell at strides 8, 16 and 32."""
    counts = [2 * (640 // stride) ** 2 for stride in (8, 16, 32)]
    arrays = {}
    for kind, width in (("score", 1), ("bbox", 4), ("kps", 10)):
        for stride, count in zip((8, 16, 32), counts, strict=True):
            arrays[f"{kind}_{stride}"] = np.zeros((count, width), np.float32)
    for box, score in boxes:
        # The anchor at the upper left of the cell with the box's centre holds the box, in strides.
        column, row = int((box[0] + box[2]) / 2) // 32, int((box[1] + box[3]) / 2) // 32
        anchor, (x, y) = 2 * (row * 20 + column), (32 * column, 32 * row)
        arrays["score_32"][anchor] = score
        arrays["bbox_32"][anchor] = np.array([x - box[0], y - box[1], box[2] - x, box[3] - y]) / 32
    nodes = [
        helper.make_node("Constant", [], [name], name=name, value=numpy_helper.from_array(array))
        for name, array in arrays.items()
    ]
    given = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [1, 3, "height", "width"])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, list(array.shape)) for name, array in arrays.items()
    ]
    store(path, nodes, given, outputs, [])


def landmark_model(path: Path) -> None:
    """2d106det, (1, 3, 192, 192) -> (1, 212); here PATTERN + REDNESS · mean of the first channel."""
    constants = {"pattern": PATTERN[None], "plane": np.array([0]), "weight": np.array([REDNESS], np.float32)}
    nodes = [
        helper.make_node("Gather", ["data", "plane"], ["red"], axis=1, name="gather"),
        helper.make_node("ReduceMean", ["red"], ["mean"], axes=[1, 2, 3], keepdims=0, name="mean"),
        helper.make_node("Einsum", ["mean", "weight"], ["shift"], equation="b,w->bw", name="scale"),
        helper.make_node("Add", ["shift", "pattern"], ["fc1"], name="add"),
    ]
    given = helper.make_tensor_value_info("data", TensorProto.FLOAT, ["batch", 3, 192, 192])
    outputs = [helper.make_tensor_value_info("fc1", TensorProto.FLOAT, ["batch", 212])]
    store(path, nodes, given, outputs, [numpy_helper.from_array(array, name) for name, array in constants.items()])


def space_model(path: Path) -> None:
    """1k3d68, (1, 3, 192, 192) -> (1, 3309), whose last 68 points are used; here SPACE for every picture."""
    answer = np.concatenate([np.zeros((1035, 3)), SPACE]).astype(np.float32).reshape(1, 3309)
    nodes = [
        helper.make_node("ReduceMean", ["data"], ["mean"], axes=[1, 2, 3], keepdims=0, name="mean"),
        helper.make_node("Einsum", ["mean", "none"], ["nothing"], equation="b,w->bw", name="scale"),
        helper.make_node("Add", ["nothing", "answer"], ["fc1"], name="add"),
    ]
    given = helper.make_tensor_value_info("data", TensorProto.FLOAT, ["batch", 3, 192, 192])
    outputs = [helper.make_tensor_value_info("fc1", TensorProto.FLOAT, ["batch", 3309])]
    constants = {"none": np.zeros(1, np.float32), "answer": answer}
    store(path, nodes, given, outputs, [numpy_helper.from_array(array, name) for name, array in constants.items()])


def store(path, nodes, given, outputs, constants) -> None:
    graph = helper.make_graph(nodes, path.stem, [given], outputs, initializer=constants)
    save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("root") / "models" / "buffalo_l"
    folder.mkdir(parents=True)
    detector_model(folder / "det_10g.onnx", [(BOX, 0.9), ((500, 400, 560, 460), 0.7), ((40, 40, 90, 90), 0.3)])
    landmark_model(folder / "2d106det.onnx")
    return folder


def expected_points(box: np.ndarray, red: float) -> np.ndarray:
    """The pattern in a square of 1.5 times the box's longer side; InsightFace scales the model's output by 192 / 2."""
    centre, side = (box[:2] + box[2:]) / 2, 1.5 * float((box[2:] - box[:2]).max())
    pattern = (PATTERN + REDNESS * red).reshape(106, 2)
    return centre + pattern * 96 * side / 192


@pytest.mark.parametrize(("colour", "red"), [((255, 0, 0), 127.5 / 128), ((0, 0, 255), -127.5 / 128)])
def test_boxes_and_points_are_in_pixels_of_the_frame(models, colour, red):
    source = open_landmark_source("insightface", SourceOptions(models_dir=models))
    frame = np.full((1280, 1280, 3), colour, np.uint8)  # shown to the detector at half its size
    ((first, second),) = source([frame])
    assert source.layout == "insightface106"
    np.testing.assert_allclose(first.box, 2 * np.array(BOX), atol=0.01)
    np.testing.assert_allclose(second.box, 2 * np.array((500, 400, 560, 460)), atol=0.01)
    assert (round(first.score, 3), round(second.score, 3)) == (0.9, 0.7)  # 0.3 is below the threshold
    np.testing.assert_allclose(first.points, expected_points(2 * np.array(BOX), red), atol=0.02)
    assert first.points.dtype == np.float32
    assert first.depth is None
    assert source.seconds["detect"] > 0


@pytest.mark.parametrize("direction", [1, -1])
def test_depth_comes_from_the_model_of_points_in_space(models, tmp_path, monkeypatch, direction):
    """A plane stays a plane, and the nose is in front of the ears, whatever the sign of the model's depth."""
    for name in ("det_10g.onnx", "2d106det.onnx"):
        shutil.copy(models / name, tmp_path / name)
    monkeypatch.setattr(sys.modules[__name__], "SPACE", SPACE * (1, 1, direction))
    space_model(tmp_path / "1k3d68.onnx")
    source = open_landmark_source("insightface", SourceOptions(models_dir=tmp_path))
    ((face, _),) = source([np.full((1280, 1280, 3), 128, np.uint8)])
    box = 2 * np.array(BOX)
    unit = 96 * 1.5 * float((box[2:] - box[:2]).max()) / 192  # pixels per unit of the models' output
    x, y = ((face.points - (box[:2] + box[2:]) / 2) / unit).T
    np.testing.assert_allclose(face.depth, -(0.5 * x + 0.25 * y + 0.1) * unit, atol=0.05)
    assert face.depth.dtype == np.float32


def test_models_dir_may_be_the_root_of_insightface(models):
    assert insightface.find_models(models.parents[1], fetch=False) == models
    assert insightface.find_models(models, fetch=False) == models


def test_missing_models_are_reported_with_address_licence_and_flag(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / ".insightface" / "models" / "buffalo_l"
    files = ("det_10g.onnx", "2d106det.onnx", "buffalo_l.zip")
    with user_error("missing_file", *files, "non-commercial", "--models-dir", "--download", folder):
        open_landmark_source("insightface", SourceOptions())
    assert not (tmp_path / ".insightface").exists()  # nothing was created


def test_damaged_models_are_reported(tmp_path):
    for name in ("det_10g.onnx", "2d106det.onnx"):
        (tmp_path / name).write_bytes(b"damaged")
    with user_error("bad_model", tmp_path, "det_10g.onnx"):
        open_landmark_source("insightface", SourceOptions(models_dir=tmp_path))


# Downloads, only from this machine


def package(files: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"buffalo_l/{name}", content)
    return data.getvalue()


@pytest.fixture
def server():
    """Call it with {path: (status, stated length, body)} to serve that on this machine; returns the address."""
    running: list[http.server.ThreadingHTTPServer] = []
    ended = threading.Event()

    def serve(pages):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                page = pages[self.path]
                if page is None:
                    ended.wait(20)  # never answers
                    return
                status, promised, body = page
                self.send_response(status)
                self.send_header("Content-Length", str(promised))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        running.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=running[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{running[-1].server_port}"

    yield serve
    ended.set()
    for each in running:
        each.shutdown()
        each.server_close()


CONTENTS = {"det_10g.onnx": b"detector" * 1000, "2d106det.onnx": b"landmarks" * 1000}
CHECKSUMS = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENTS.items()}


def test_the_package_is_downloaded_checked_and_unpacked(server, tmp_path):
    data = package({**CONTENTS, "w600k_r50.onnx": b"a model of faces that is not used"})
    address = server({"/buffalo_l.zip": (200, len(data), data)}) + "/buffalo_l.zip"
    insightface.install(address, tmp_path / "new" / "models", CHECKSUMS)
    found = {path.name: path.read_bytes() for path in (tmp_path / "new" / "models").iterdir()}
    assert found == CONTENTS


def test_a_package_with_a_wrong_file_is_not_used(server, tmp_path):
    data = package({**CONTENTS, "2d106det.onnx": b"something else"})
    short = package({"det_10g.onnx": CONTENTS["det_10g.onnx"]})
    pages = {"/a.zip": (200, len(data), data), "/b.zip": (200, len(short), short), "/c.zip": (200, 5, b"hello")}
    address = server(pages)
    for page, fact in (("a", "checksum"), ("b", "2d106det.onnx"), ("c", "zip")):
        with user_error("bad_model", f"{address}/{page}.zip", fact, "non-commercial"):
            insightface.install(f"{address}/{page}.zip", tmp_path / "models", CHECKSUMS)
    assert not (tmp_path / "models").exists()


def test_a_failed_download_leaves_nothing_behind(server, tmp_path, monkeypatch):
    monkeypatch.setattr(insightface, "TIMEOUT", 0.5)
    address = server({"/short": (200, 5000, b"x" * 100), "/gone": (404, 0, b""), "/silent": None})
    for page, fact in (("short", "100 of 5000"), ("gone", "Not Found"), ("silent", "timed out")):
        with user_error("download_failed", f"{address}/{page}", fact, "non-commercial"):
            insightface.install(f"{address}/{page}", tmp_path / "models", CHECKSUMS)
    assert not list(tmp_path.iterdir())
