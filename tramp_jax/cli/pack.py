"""``tramp-jax pack``: writes a data set into a few large files that are fast to read in any order."""

import argparse
import sys

from tramp_jax import shards
from tramp_jax.cli import data_arguments
from tramp_jax.errors import UserError
from tramp_jax.files import check_place, expanded


def add_arguments(parser: argparse.ArgumentParser) -> None:
    data_arguments.add_arguments(parser)
    parser.add_argument(
        "--out", type=expanded, required=True, metavar="DIR", help="folder to write; an interrupted pack continues"
    )
    parser.add_argument(
        "--shard-size-mb",
        type=float,
        default=256,
        metavar="N",
        help="approximate size of a file (default: %(default)s)",
    )
    shards.add_arguments(parser, "only its files into the folder")
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave out faulty clips instead of stopping; manifest.json lists them"
    )


def run(arguments: argparse.Namespace) -> int:
    from tramp_jax.data import packing

    check_place(arguments.out)
    config, wanted = data_arguments.config_of(arguments)
    if arguments.shard_size_mb <= 0:
        raise UserError("bad_option", f"--shard-size-mb must be above 0, not {arguments.shard_size_mb:g}")
    shard = shards.chosen(arguments)
    size, workers = round(arguments.shard_size_mb * 2**20), arguments.workers
    done = packing.pack(config, wanted, arguments.out, size, workers, arguments.skip_bad, shard, arguments.collect)
    hint = f"train on it with --config.data.root={arguments.out}"
    if shard:
        hint = "when all shards are done, run the command again with --collect instead of --shard"
    sys.stdout.write(f"{done}\n{hint}\n")
    return 0
