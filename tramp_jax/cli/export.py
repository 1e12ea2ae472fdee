"""``tramp-jax export``: writes a trained model as an ONNX file."""

import argparse
import sys
from pathlib import Path

from tramp_jax.errors import UserError
from tramp_jax.files import check_new, expanded, write_atomically


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint", type=expanded, required=True, metavar="RUN", help="folder of a run of train.py (or RUN/fold_0)"
    )
    parser.add_argument("--which", default="best", help="checkpoint of the run: best (default), last, or a step")
    parser.add_argument("--out", type=expanded, default=Path("model.onnx"), help="file to write (default model.onnx)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")


def run(arguments: argparse.Namespace) -> int:
    out: Path = arguments.out
    check_new(out, arguments.overwrite)
    try:
        import onnx
    except ImportError as error:
        raise UserError("missing_package", 'export needs onnx: pip install "tramp_jax[onnx]"') from error
    from tramp_jax.export.onnx_graph import build
    from tramp_jax.scoring.members import load_member

    member = load_member(arguments.checkpoint, arguments.which)
    model = build(member.config, member.variables, member.output, {"model": member.id, "step": str(member.step)})
    onnx.checker.check_model(model)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, model.SerializeToString())
    inputs = ", ".join(entry.name for entry in model.graph.input)
    sys.stdout.write(
        f"{out}: model {member.id}, step {member.step}, {out.stat().st_size / 2**20:.1f} MiB\n"
        f"inputs: {inputs} (docs/export.md)\n"
    )
    if member.config.model.precision != "float32":
        precision = member.config.model.precision
        sys.stdout.write(f"the model computes in {precision}, but the file in float32, so scores differ slightly\n")
    return 0
