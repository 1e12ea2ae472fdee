"""python -m convert_weights SRC [--out DIR] [--to-pytorch OUT.pth] [--verify]; see docs/weights.md."""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from convert_weights import store
from convert_weights.kinds import KINDS
from convert_weights.load import load_checkpoint
from convert_weights.state_dict import ON_PURPOSE, OUTSIDE
from convert_weights.store import LoadedCheckpoint
from tramp_jax.cli import Parser
from tramp_jax.cli.exit_codes import exit_codes
from tramp_jax.errors import UserError
from tramp_jax.files import expanded

_LISTED = 40  # show at most this many dropped tensors; conversion.json lists all


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns 0. Errors exit with another code; see ``exit_codes``."""
    flags = _parser().parse_args(arguments)
    if not (flags.out or flags.to_pytorch or flags.verify):
        _parser().error("nothing to do: give --out DIR, --to-pytorch OUT.pth or --verify")
    with exit_codes():
        _run(flags)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m convert_weights", description="Convert PyTorch weights, and convert them back.")
    parser.add_argument("source", metavar="SRC", type=expanded, help="file, converted folder or run")
    parser.add_argument("--out", metavar="DIR", type=expanded, help="folder to write params and batch_stats to")
    parser.add_argument("--kind", choices=("auto", *KINDS), default="auto", help="default: inferred from the names")
    parser.add_argument("--length", type=int, help="trajectory length T, if SRC does not reveal it")
    parser.add_argument(
        "--fresh", metavar="PATTERN", action="append", default=[], help="parameters that SRC may lack, e.g. params/head"
    )
    parser.add_argument(
        "--drop", metavar="PATTERN", action="append", default=[], help="tensors of SRC to ignore, e.g. s_former.extra.*"
    )
    parser.add_argument("--container", metavar="KEY", help="state dict of SRC to read, e.g. ckpt.model")
    parser.add_argument("--to-pytorch", metavar="OUT.pth", type=expanded, help="file to write a PyTorch state dict to")
    parser.add_argument("--checkpoint", default="", help="a run's checkpoint: best, last or a step")
    parser.add_argument("--verify", action="store_true", help="compare with the PyTorch model on the same weights")
    parser.add_argument("--overwrite", action="store_true", help="replace DIR or OUT.pth")
    return parser


def _run(flags: argparse.Namespace) -> None:
    if flags.out:
        store.check_free(flags.out.absolute(), flags.overwrite, store.REPORT)
    if flags.to_pytorch:
        store.check_free(flags.to_pytorch.absolute(), flags.overwrite)
    checkpoint = load_checkpoint(
        flags.source,
        flags.kind,
        length=flags.length,
        fresh=flags.fresh,
        checkpoint=flags.checkpoint,
        container=flags.container,
        drop=flags.drop,
    )
    _say(_summary(flags.source, checkpoint))
    for warning in checkpoint.report["warnings"]:
        sys.stderr.write(f"warning: {flags.source}: {warning}\n")
    if flags.out:
        store.write_folder(checkpoint.variables, checkpoint.report, flags.out, flags.overwrite)
        _say([f"wrote {flags.out} ({store.VARIABLES}/ and {store.REPORT})"])
    if flags.to_pytorch:
        from convert_weights import export

        count = export.write_pth(checkpoint, flags.to_pytorch, flags.overwrite)
        _say([f"wrote {flags.to_pytorch} ({count} tensors)", *export.deviations(checkpoint.model_config)])
    if flags.verify:
        from convert_weights import verify

        stages = verify.compare(checkpoint)
        _say(verify.lines(stages))
        if not all(stage.agrees for stage in stages):
            what = f"{flags.source}: our model and PyTorch differ by more than {verify.TOLERANCE:g}"
            raise UserError("differs_from_pytorch", f"{what}; do not use these weights, and report the table above")


def _summary(source: pathlib.Path, checkpoint: LoadedCheckpoint) -> list[str]:
    report = checkpoint.report
    lines = [
        f"{source}: {checkpoint.kind}, {len(report['tensors'])} tensors converted, {len(report['dropped'])} dropped, "
        f"{len(report['fresh'])} parameters left fresh"
    ]
    lines += [f"assumed: {option} = {why}" for option, why in report["assumed"].items()]
    lines += [f"fresh: {path}" for path in report["fresh"]]
    unusual = [r for r in report["dropped"] if r["reason"].startswith((ON_PURPOSE, OUTSIDE))]
    lines += [f"dropped: {r['source']}: {r['reason']}" for r in unusual[:_LISTED]]
    if len(unusual) > _LISTED:
        lines.append(f"… and {len(unusual) - _LISTED} more dropped")
    return lines


def _say(lines: Sequence[str]) -> None:
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
