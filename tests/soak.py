"""Long runs: memory, open files and threads must stay level, and a video's last frames cost what its first ones did.

    python -m tests.soak --out tests/soak_results.json

It takes about ten minutes on two cores, so ``tests/test_soak.py`` only tests how the samples are judged. Linux only.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

ROOT = pathlib.Path(__file__).parents[1]
STEPS, CLIPS, VIDEO_SECONDS = 300, 500, 19
# What the last third may have above the middle third: the allocator's noise, and a file or thread that comes and goes.
_MORE_MEMORY, _MORE_HANDLES, _MORE_TIME = 1.05, 3, 1.25


@dataclasses.dataclass(frozen=True)
class Sample:
    """A process at one moment.

    Attributes:
      done: share of its work that is done.
      megabytes: resident memory.
      files: open files and sockets.
      threads: number of threads.
    """

    done: float
    megabytes: float
    files: int
    threads: int


@dataclasses.dataclass
class Found:
    """The largest values in the middle and in the last third of the work, and what has grown."""

    megabytes: tuple[float, float]
    files: tuple[int, int]
    threads: tuple[int, int]
    seconds: float
    frame_ms: tuple[float, float] | None = None

    @property
    def grown(self) -> list[str]:
        """Names of what is larger in the last third than noise explains."""
        limits = {
            "megabytes": self.megabytes[0] * _MORE_MEMORY,
            "files": self.files[0] + _MORE_HANDLES,
            "threads": self.threads[0] + _MORE_HANDLES,
        }
        names = [name for name, limit in limits.items() if getattr(self, name)[1] > limit]
        if self.frame_ms is not None and self.frame_ms[1] > _MORE_TIME * self.frame_ms[0]:
            names.append("frame_ms")
        return names


def judge(samples: Sequence[Sample], seconds: float) -> Found:
    """Compares the last third of the work with the one before it.

    Raises:
      ValueError: a third has no samples.
    """
    thirds = [[s for s in samples if low < s.done <= low + 1 / 3] for low in (1 / 3, 2 / 3)]
    most = [[max(getattr(s, name) for s in third) for third in thirds] for name in ("megabytes", "files", "threads")]
    return Found(*((middle, last) for middle, last in most), seconds)


def sample(pid: int, done: float) -> Sample:
    """A sample of a running process.

    Raises:
      OSError: it has ended.
    """
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    values = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    megabytes = int(values["VmRSS"].split()[0]) / 1024
    return Sample(done, megabytes, len(os.listdir(f"/proc/{pid}/fd")), int(values["Threads"]))


def watch(command: Sequence[object], done: Callable[[], float]) -> Found:
    """Runs a program of the repository to its end and samples it twice a second.

    Raises:
      CalledProcessError: it failed.
    """
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, *map(str, command)], cwd=ROOT, stdout=subprocess.DEVNULL)
    samples = []
    while process.poll() is None:
        time.sleep(0.5)
        try:
            samples.append(sample(process.pid, done()))
        except (OSError, KeyError):  # it has just ended
            break
    if code := process.wait():
        raise subprocess.CalledProcessError(code, process.args)
    return judge(samples, time.monotonic() - start)


def train(folder: pathlib.Path) -> Found:
    """Trains 300 steps with an evaluation and a checkpoint every tenth step."""
    from tramp_jax import training_log

    run = folder / "run"

    def done() -> float:
        steps = [row["step"] for row in training_log.read_metrics(run)] if run.is_dir() else []
        return max(steps, default=0) / STEPS

    options = {"data.num_subjects": 63, "train.passes_per_epoch": 2, "train.epochs": STEPS // 10}
    config = [f"--config.{name}={value}" for name, value in options.items()]
    return watch(["train.py", "--config", "tests/tiny.py", "--workdir", run, *config], done)


def score(folder: pathlib.Path) -> Found:
    """Scores 500 clips with the trained run."""
    from tramp_jax.data.clip_folder import write_clip
    from tramp_jax.synthetic.faces import SyntheticFaces

    clips, table = folder / "clips", folder / "scores.csv"
    faces = SyntheticFaces(10, 1, ("smile",))
    for number in range(len(faces)):
        write_clip(clips / f"{number:03}", faces[number])
    for number in range(len(faces), CLIPS):
        shutil.copytree(clips / f"{number % len(faces):03}", clips / f"{number:03}")

    def done() -> float:
        return max(table.read_text().count("\n") - 1, 0) / CLIPS if table.is_file() else 0.0

    inputs = [clips / f"{number:03}" for number in range(CLIPS)]
    return watch(["-m", "tramp_jax", "score", *inputs, "--checkpoint", folder / "run", "--out", table], done)


def video(folder: pathlib.Path) -> Found:
    """Finds landmarks in 19 s of video, frame by frame, as ``tramp-jax preprocess`` does."""
    import numpy as np

    from tests import preprocess_inputs
    from tramp_jax.preprocess import SourceOptions, open_landmark_source
    from tramp_jax.preprocess.video import open_frames

    count = VIDEO_SECONDS * 25
    shifts = [(20 * np.sin(i / 9), 10 * np.cos(i / 13)) for i in range(count)]
    path = preprocess_inputs.write_video(
        folder / "long.mp4", preprocess_inputs.moved(preprocess_inputs.photograph(), shifts)
    )
    start = time.monotonic()
    samples, times = [], []
    frames = (frame for _, frame in open_frames(path))
    for number, _ in enumerate(open_landmark_source("mediapipe", SourceOptions())(frames), 1):
        samples.append(sample(os.getpid(), number / count))
        times.append(time.monotonic())
    found = judge(samples, time.monotonic() - start)
    milliseconds = 1000 * np.diff(times)
    third = count // 3
    found.frame_ms = float(np.median(milliseconds[third : 2 * third])), float(np.median(milliseconds[2 * third :]))
    return found


RUNS = {f"{STEPS} training steps": train, f"{CLIPS} clips scored": score, f"{VIDEO_SECONDS} s of video": video}


def main(arguments: list[str] | None = None) -> int:
    """Makes the runs and prints, and optionally records, what they showed; 1 if anything has grown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, help="record the figures in this JSON file")
    options = parser.parse_args(arguments)
    results = {}
    with tempfile.TemporaryDirectory() as made:
        for name, run in RUNS.items():
            found = run(pathlib.Path(made))
            results[name] = dataclasses.asdict(found) | {"grown": found.grown}
            print(f"{name}: {results[name]}", flush=True)
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    return int(any(result["grown"] for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
