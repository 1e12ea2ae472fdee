"""How a drawn face moves: its expressions over time, and how hypomimia of severity 0-4 impairs them.

``skin`` can show severity, too. At time 0 every action is exactly 0, so the first frame shows the neutral face. Times
are in seconds from the start of the clip, rates per second.

To add an expression, append it to ``TARGETS``. To add a sign of severity, add it to ``Impairment`` and apply it in
``draw_actions``; if it is random, give it its own stream in ``faces.Stream``.
"""

import dataclasses

import numpy as np

from tramp_jax.synthetic import face

FPS = 25.0
EARLIEST = 0.36  # nothing moves before this time

# Strength of each action at the peak of each healthy expression. Clips are seeded by position: append, never insert.
TARGETS: dict[str, dict[str, float]] = {
    "sit_at_rest": {},
    "smile": {"corner_pull": 1.0, "cheek": 0.7, "lips_part": 0.7},
    "frown": {"brow_lower": 1.0, "cheek": 0.25, "corner_depress": 0.4, "lip_press": 0.4},
    "squeeze_eyes": {"close": 1.5, "cheek": 0.9, "brow_lower": 0.7, "nose_wrinkle": 0.9, "corner_pull": 0.25},
    "clench_teeth": {"lip_stretch": 1.0, "lips_part": 1.3, "cheek": 0.35, "nose_wrinkle": 0.4},
}
EXPRESSIONS = tuple(TARGETS)
# Small movements of a face at rest, one at a time.
_GESTURES = (
    {"brow_raise": 0.8},
    {"brow_lower": 0.6},
    {"corner_pull": 0.5, "cheek": 0.3},
    {"lip_press": 0.9, "corner_depress": 0.5},
    {"lip_stretch": 0.5},
)


@dataclasses.dataclass(frozen=True)
class Impairment:
    """The effects of a severity on a movement."""

    amplitude: float  # remaining share of the healthy range of motion
    speed: float  # natural frequency of the movement, 1/s; higher is faster
    delay: float  # additional time before the onset, s
    imbalance: float  # share of the amplitude that the weaker side loses
    tremor: float  # amplitude of jaw tremor, pixels
    blink_rate: float  # spontaneous blinks, 1/s (several times the natural rate, since clips last 2-3 s)


def impairment(severity: float) -> Impairment:
    """The effects of a severity (continuous, about -0.5 to 4.5). Each is monotonic."""
    severity = max(severity, 0.0)
    return Impairment(
        amplitude=max(1 - 0.21 * severity, 0.08),
        speed=15 * float(np.exp(-0.28 * severity)),
        delay=0.07 * severity,
        imbalance=0.09 * severity,
        tremor=0.28 * severity,
        blink_rate=1.0 * float(np.exp(-0.55 * severity)),
    )


@dataclasses.dataclass(frozen=True)
class Habit:
    """How one person makes one expression, independent of severity."""

    amplitude: float  # personal factor on the range of motion
    mix: np.ndarray  # (actions,) personal factor on each action
    sides: np.ndarray  # (2,) natural left-right balance
    weak_side: int  # 0 or 1, the side that hypomimia weakens


def draw_habit(rng: np.random.Generator) -> Habit:
    """Draws a random person's way of making one expression."""
    return Habit(
        amplitude=float(np.exp(rng.normal(0, 0.12))),
        mix=np.exp(rng.normal(0, 0.15, len(face.ACTIONS))),
        sides=1 + rng.normal(0, 0.04, 2),
        weak_side=int(rng.integers(2)),
    )


def pulse(times: np.ndarray, start: float, stop: float, speed: float) -> np.ndarray:
    """Critically damped response (n,), 0-1, to a command that is 1 from start to stop."""

    def step(since: np.ndarray) -> np.ndarray:
        phase = speed * np.maximum(since, 0)
        return 1 - (1 + phase) * np.exp(-phase)

    return step(times - start) - step(times - stop)


def _row(actions: dict[str, float]) -> np.ndarray:
    """(actions,) strengths in the order of ``face.ACTIONS``."""
    return np.array([actions.get(name, 0.0) for name in face.ACTIONS])


def _at_rest(times: np.ndarray, effect: Impairment, rng: np.random.Generator) -> np.ndarray:
    """Actions (n, actions) of a face at rest: three small spontaneous movements spread over the clip."""
    actions = np.zeros((len(times), len(face.ACTIONS)))
    room = (times[-1] - EARLIEST) / 3
    for k, which in enumerate(rng.permutation(len(_GESTURES))[:3]):
        start = EARLIEST + room * (k + rng.uniform(0, 0.5)) + effect.delay * 0.5
        course = pulse(times, start, start + rng.uniform(0.35, 0.6), effect.speed)
        actions += course[:, None] * _row(_GESTURES[which]) * rng.uniform(0.8, 1.2)
    return actions


def _blinks(times: np.ndarray, rate: float, rng: np.random.Generator) -> np.ndarray:
    """Closure of the lids (n,) in spontaneous blinks. The first comes at least 0.25 s after EARLIEST."""
    gaps = rng.gamma(4.0, 0.25, 32) / rate
    gaps[0] *= rng.uniform()  # the clip starts at a random time between two blinks
    peaks = EARLIEST + 0.25 + np.cumsum(gaps + 0.2) - 0.2
    since = times[:, None] - peaks
    shape = np.exp(-((since / np.where(since < 0, 0.05, 0.09)) ** 2))
    return np.where(since > -EARLIEST, shape, 0).max(axis=1)


def _tremor(times: np.ndarray, effect: Impairment, onset: float, rng: np.random.Generator) -> np.ndarray:
    """Actions (n, actions, 2) of a 4-6 Hz tremor of jaw, lips and lids that builds up after ``onset``."""
    envelope = np.clip((times - onset) / 0.3, 0, 1) * (1 + 0.3 * np.sin(2 * np.pi * times / rng.uniform(0.8, 1.6)))
    angle = 2 * np.pi * rng.uniform(4, 6) * times
    phases = rng.uniform(0, 2 * np.pi, (3, 2))
    phases[0, 1] = phases[0, 0]  # the jaw is one bone
    strengths = {"jaw": 0.1, "corner_depress": 0.08, "close": 0.035}  # per pixel of jaw tremor
    actions = np.zeros((len(times), len(face.ACTIONS), 2))
    for (name, strength), phase in zip(strengths.items(), phases, strict=True):
        wave = envelope[:, None] * np.sin(angle[:, None] + phase)
        actions[:, face.ACTIONS.index(name)] = strength * effect.tremor * wave
    return actions


def draw_actions(
    num_frames: int, expression: str, severity: float, habit: Habit, rngs: dict[str, np.random.Generator]
) -> np.ndarray:
    """Draws the facial actions of one clip: (n, actions, 2 sides), all 0 in the first frame.

    ``rngs`` has a generator for each of "timing", "blink" and "tremor". None of them depends on the severity.
    """
    times = np.arange(num_frames) / FPS
    effect = impairment(severity)
    timing = rngs["timing"]
    onset, release = EARLIEST + timing.uniform(0, 0.25), timing.uniform(0.35, 0.55)
    amplitude = effect.amplitude * habit.amplitude * float(np.exp(timing.normal(0, 0.05)))
    if expression == "sit_at_rest":
        course = _at_rest(times, effect, timing)
    else:
        command = pulse(times, onset + effect.delay, times[-1] - release, effect.speed)
        course = command[:, None] * _row(TARGETS[expression])
    sides = habit.sides.copy()
    sides[habit.weak_side] *= 1 - effect.imbalance * timing.uniform(0.6, 1.2)
    actions = amplitude * (course * habit.mix)[..., None] * sides
    actions += _tremor(times, effect, onset, rngs["tremor"])
    lids = face.ACTIONS.index("close")
    actions[:, lids] = np.maximum(actions[:, lids], _blinks(times, effect.blink_rate, rngs["blink"])[:, None])
    return actions


def draw_gaze(num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """Draws the displacement of the pupils (n, 2) in pixels: still, with a few quick shifts."""
    steps = np.sort(rng.uniform(0, num_frames, 2))
    targets = rng.normal(0, (1.4, 0.5), (3, 2))
    return targets[np.searchsorted(steps, np.arange(num_frames))]


def draw_pose(num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """Draws head motion (n, 6), see ``face.Motion.pose``: one offset per clip, and slow swaying around it."""
    spread = np.array([0.09, 0.06, 0.04, 0.02, 3.0, 2.5])
    times = np.arange(num_frames)[:, None, None] / FPS
    frequency = rng.uniform(0.08, 0.5, (2, 6))
    waves = np.sin(2 * np.pi * (frequency * times + rng.uniform(0, 1, (2, 6))))
    sway = (waves * rng.normal(0, 0.4, (2, 6))).sum(axis=1)
    return spread * (np.clip(rng.normal(size=6), -1.6, 1.6) * 0.7 + sway)
