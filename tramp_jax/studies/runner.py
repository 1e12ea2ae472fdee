"""Does the runs of a study, each once: a finished run is skipped, and a stopped one continues."""

import statistics
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any

import jax
from tqdm import tqdm

from tramp_jax import experiment, json_files, run, training_log
from tramp_jax.errors import Interrupted, UserError, as_user_error
from tramp_jax.files import locked
from tramp_jax.models import count_parameters
from tramp_jax.studies import cost, simple
from tramp_jax.studies.plan import Run


def execute(runs: Sequence[Run]) -> None:
    """Does the runs one after the other. If a run fails, records why and goes on; the next call tries it again.

    Raises:
      UserError: changed_options if a run was started with other options.
      Interrupted: the user stopped it; the same command continues.
    """
    for number, each in enumerate(runs, start=1):
        if is_done(each):
            continue
        tqdm.write(f"run {number} of {len(runs)}: {each}")
        started = time.monotonic()
        try:
            _train(each)
            ended = {"error": None} | _measured(each)
        except (KeyboardInterrupt, Interrupted) as stopped:
            raise Interrupted("stopped; what is finished stays. To continue, run the same command again") from stopped
        except Exception as error:  # one run must not stop the others
            mistake = as_user_error(error)
            if mistake and mistake.kind == "in_use":  # another program does this run, and will say how it ended
                tqdm.write(f"{each} is skipped: {mistake}", file=sys.stderr)
                continue
            if mistake is None:
                tqdm.write(traceback.format_exc(), file=sys.stderr)
            ended = {"error": str(mistake) if mistake else f"{type(error).__name__}: {error}"}
            tqdm.write(f"{each} failed: {ended['error']}", file=sys.stderr)
        each.outcome.parent.mkdir(parents=True, exist_ok=True)
        ended["seconds"] = round(time.monotonic() - started)
        json_files.write(each.outcome, ended)
        if not each.row.method:
            jax.clear_caches()  # otherwise, the programs of all runs stay in memory


def outcome(each: Run) -> dict[str, Any] | None:
    """How a run ended: its ``error`` (None if it succeeded) and measurements; None if it has not ended."""
    if not each.outcome.is_file():
        return None
    cure = "delete it to repeat the run"
    ended = json_files.read(each.outcome, cure)
    error = ended.pop("error", 0)
    if not isinstance(error, str | None) or not all(type(value) in (int, float) for value in ended.values()):
        raise UserError("damaged_file", f"{each.outcome}: does not say how the run ended; {cure}")
    return {"error": error} | ended


def is_done(each: Run) -> bool:
    """Whether a run has succeeded and its folder still exists.

    Raises:
      UserError: changed_options if it was started with other options.
    """
    if not (each.folder / run.CONFIG).is_file():
        return False
    run.check_same(each.folder, each.config, "for these options, delete that folder or choose another --out")
    ended = outcome(each)
    return ended is not None and ended["error"] is None


def _train(each: Run) -> None:
    if each.row.method:
        with locked(each.folder):
            simple.fit(each.config, each.folder, each.row.method)
    else:
        experiment.train(each.config, each.folder, resume=(each.folder / run.CONFIG).is_file())


def _measured(each: Run) -> dict[str, Any]:
    """Size and speed of what was trained, where they are known."""
    if each.row.method:
        return {}
    paces = [
        row["clips_per_second"]
        for folder in (run.trained_folds(each.folder) or [each.folder])
        for row in training_log.read_metrics(folder)
        if row["kind"] == "input"
    ]
    found: dict[str, Any] = {}
    if paces:
        found["clips_per_second"] = statistics.median(paces[1:] or paces)  # the first epoch compiles
    model = each.config.model
    return found | {"parameters": count_parameters(model), "flops": cost.flops(model)}
