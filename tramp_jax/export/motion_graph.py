"""The channels of the trajectory stream as ONNX nodes (``batches.motion``), without the batch axis.

Axes: T time, W windows of n frames, V joints (landmarks), C channels.
"""

import numpy as np
from ml_collections import ConfigDict
from onnx import TensorProto

from tramp_jax import channels
from tramp_jax.batches import motion
from tramp_jax.data.landmarks import GROUP_SIZE, MIRROR
from tramp_jax.export.graph import Graph, Tensor


def for_encoder(g: Graph, config: ConfigDict) -> tuple[Tensor, Tensor]:
    """What the encoder reads: trajectories (T / patch, V, channels) and ``index_t`` (T / patch,)."""
    option, length, count, patch = config.channels, config.length, config.num_points, config.patch
    held, wanted = channels.stored(option), channels.names(option)
    x = g.op("Reshape", "trajectories", [length, count, len(held)])
    index_t = g.op("Reshape", "index_t", [-1])
    if channels.reads_motion(option):
        x = _with_motion(g, x, option, length, count)
    elif wanted != tuple(held):
        x = _channels(g, x, [held.index(name) for name in wanted])
    if patch > 1:
        x = g.op("Reshape", x, [length // patch, patch, count, len(wanted)])
        x = g.op("ReduceMean", x, [1], keepdims=0)
        index_t = g.op("ReduceMean", g.op("Reshape", index_t, [-1, patch]), [1], keepdims=0)
    return x, index_t


def _with_motion(g: Graph, x: Tensor, option: str, length: int, count: int) -> Tensor:
    positions = _channels(g, x, [0, 1])
    points = g.op("Div", positions, _pupil_distance(g, positions))
    seconds = g.op("Reshape", "seconds", [length, 1, 1])
    moves = g.op("Cast", g.op("Greater", seconds, np.array(0.0)), to=TensorProto.FLOAT)
    speed = _speed(g, points, seconds, moves)
    energy = _energies(g, points, speed, moves, count)
    groups = option.split("+")
    parts = {"xy": positions, "xyrgb": x, "speed": speed, "energy": energy}
    if "rgb" in groups:
        parts["rgb"] = _channels(g, x, [2, 3, 4])
    if "range" in groups:
        parts["range"] = g.op("Expand", _range(g, points, moves, 0), g.op("Shape", points))
    if "tremor" in groups:
        parts["tremor"] = _tremor(g, speed, seconds, moves, count)
    if "asymmetry" in groups:
        mirrored = g.op("Mul", _mirrored(g, points), np.array([-1.0, 1.0]))
        sides = [g.op("Sub", points, mirrored), g.op("Sub", energy, _mirrored(g, energy))]
        parts["asymmetry"] = g.op("Concat", *sides, axis=-1)
    return g.op("Concat", *(parts[group] for group in groups), axis=-1)


def _channels(g: Graph, x: Tensor, numbers: list[int]) -> Tensor:
    return g.op("Gather", x, numbers, axis=2)


def _mirrored(g: Graph, x: Tensor) -> Tensor:
    return g.op("Gather", x, MIRROR, axis=1)


def _pupil_distance(g: Graph, points: Tensor) -> Tensor:
    """(1, 1, 1), see ``motion``."""
    left, right = (g.op("Gather", points, [slot], axis=1) for slot in (motion.LEFT_PUPIL, motion.RIGHT_PUPIL))
    apart = g.op("Sub", left, right)
    squares = g.op("ReduceSum", g.op("Mul", apart, apart), [2], keepdims=1)  # (T, 1, 1)
    apart = g.op("Sqrt", g.op("Add", squares, np.array(motion.SMALLEST**2)))
    largest = g.op("ReduceMax", g.op("Abs", points), [1, 2], keepdims=1)
    shown = g.op("Cast", g.op("Greater", largest, np.array(0.0)), to=TensorProto.FLOAT)
    total = g.op("ReduceSum", g.op("Mul", apart, shown), [0], keepdims=1)
    frames = g.op("Max", g.op("ReduceSum", shown, [0], keepdims=1), np.array(1.0))
    return g.op("Add", g.op("Div", total, frames), np.array(motion.SMALLEST))


def _speed(g: Graph, points: Tensor, seconds: Tensor, moves: Tensor) -> Tensor:
    """(T, V, 2), see ``motion``."""
    before = g.op("Concat", g.op("Slice", points, [0], [1], [0]), g.op("Slice", points, [0], [-1], [0]), axis=0)
    still = g.op("Sub", np.array(1.0), moves)
    rate = g.op("Div", moves, g.op("Add", seconds, still))
    return g.op("Mul", g.op("Sub", points, before), rate)


def _energies(g: Graph, points: Tensor, speed: Tensor, moves: Tensor, count: int) -> Tensor:
    """(T, V, 4), see ``motion``."""
    n = motion.WINDOW
    weights = g.op("Reshape", moves, [-1, n, 1, 1])
    places, speeds = (g.op("Reshape", x, [-1, n, count, 2]) for x in (points, speed))
    speeds = _mean(g, g.op("Mul", speeds, speeds), weights, 1)
    speeds = _log_root(g, speeds, motion.SPEED_FLOOR, motion.SPEED_UNIT)
    energies = g.op("Concat", speeds, _range(g, places, weights, 1), axis=-1)
    return g.op("Reshape", g.op("Tile", energies, [1, n, 1, 1]), [-1, count, 4])


def _range(g: Graph, points: Tensor, weights: Tensor, axis: int) -> Tensor:
    """How far points move along the time axis ``axis``, whose length becomes 1; see ``motion``."""
    away = g.op("Sub", points, _mean(g, points, weights, axis))
    return _log_root(g, _mean(g, g.op("Mul", away, away), weights, axis), motion.RANGE_FLOOR, motion.RANGE_UNIT)


def _mean(g: Graph, x: Tensor, weights: Tensor, axis: int) -> Tensor:
    total = g.op("Max", g.op("ReduceSum", weights, [axis], keepdims=1), np.array(1.0))
    return g.op("Div", g.op("ReduceSum", g.op("Mul", x, weights), [axis], keepdims=1), total)


def _tremor(g: Graph, speed: Tensor, seconds: Tensor, moves: Tensor, count: int) -> Tensor:
    """(T, V, 2), see ``motion``."""
    hertz, n = motion.TREMOR_HZ[:, None], GROUP_SIZE
    seconds, moves = (g.op("Reshape", x, [1, -1]) for x in (seconds, moves))
    total = g.op("Max", g.op("ReduceSum", moves, [1], keepdims=1), np.array(1.0))
    step = g.op("Max", g.op("Div", g.op("ReduceSum", seconds, [1], keepdims=1), total), np.array(motion.SHORTEST))
    numbers = g.op("Sub", g.op("CumSum", moves, np.array(1)), np.array(0.5))
    window = g.op("Sin", g.op("Mul", g.op("Div", numbers, total), np.array(np.pi)))
    weights = g.op("Mul", g.op("Mul", window, window), moves)
    angles = g.op("Mul", g.op("CumSum", seconds, np.array(1)), 2 * np.pi * hertz)
    waves = g.op("Mul", g.op("Concat", g.op("Cos", angles), g.op("Sin", angles), axis=0), weights)
    spectrum = g.op("MatMul", waves, g.op("Reshape", speed, [0, -1]))
    power = g.op("ReduceSum", g.op("Reshape", g.op("Mul", spectrum, spectrum), [2, len(hertz), -1]), [0], keepdims=0)
    cycles = g.op("Mul", step, hertz)
    shown = g.op("Less", cycles, np.array(0.5))
    sines = g.op("Sin", g.op("Mul", g.op("Where", shown, cycles, np.array(0.25)), np.array(np.pi)))
    scale = g.op("Mul", g.op("Div", step, sines), g.op("Cast", shown, to=TensorProto.FLOAT))
    size = g.op("Max", g.op("ReduceSum", g.op("Mul", weights, weights), [1], keepdims=1), np.array(motion.SMALLEST_SUM))
    density = g.op("Div", g.op("Mul", step, np.array(motion.TREMOR_STEP / 2)), size)
    square = g.op("ReduceSum", g.op("Mul", power, g.op("Mul", g.op("Mul", scale, scale), density)), [0], keepdims=1)
    regions = g.op("ReduceMean", g.op("Reshape", square, [-1, n, 2]), [1], keepdims=1)
    found = g.op("Tile", _log_root(g, regions, motion.TREMOR_FLOOR, motion.TREMOR_UNIT), [1, n, 1])
    return g.op("Expand", g.op("Reshape", found, [1, count, 2]), g.op("Shape", speed))


def _log_root(g: Graph, square: Tensor, floor: float, unit: float) -> Tensor:
    square = g.op("Add", square, np.array(floor**2))
    return g.op("Mul", g.op("Log", g.op("Mul", square, np.array(unit**-2))), np.array(0.5))
