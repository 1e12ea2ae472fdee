"""The channels of ``model.trajectory.channels``: what the trajectory encoder reads about each landmark.

The option joins groups with "+", as in "xy+energy". A group is either in ``STORED``, the channels that a clip holds and
the paper uses, or in ``MOTION``, which ``tramp_jax.batches.motion`` computes.
"""

STORED = ("xyrgb", "xy", "rgb")
MOTION = {
    "speed": ("speed_x", "speed_y"),
    "energy": ("speed_energy_x", "speed_energy_y", "range_energy_x", "range_energy_y"),
    "range": ("range_x", "range_y"),
    "tremor": ("tremor_x", "tremor_y"),
    "asymmetry": tuple(f"asymmetry_{name}" for name in ("x", "y", "speed_x", "speed_y", "range_x", "range_y")),
}

FOR_FEW_PEOPLE = "energy+range+tremor"  # what the recipe for few people reads, and the simple methods beside it

# What a channel describes, in words for the report, by the prefix of its name. The first match counts, so a new kind
# comes before the single letters.
KINDS = {
    "speed_energy": "how fast the landmarks move",
    "range_energy": "how far the landmarks move, moment by moment",
    "range": "how far the landmarks move in the whole clip",
    "tremor": "tremor of parts of the face, at 4 to 6 Hz",
    "speed": "direction and speed of the landmarks",
    "asymmetry": "differences between left and right",
    **dict.fromkeys("xy", "positions of the landmarks"),
    **dict.fromkeys("rgb", "colours under the landmarks"),
}


def names(channels: str) -> tuple[str, ...]:
    """The name of each channel that the encoder reads, such as ("x", "y", "speed_x", "speed_y")."""
    return tuple(name for group in channels.split("+") for name in MOTION.get(group, tuple(group)))


def stored(channels: str) -> str:
    """What a clip must hold for these channels: "xyrgb", "xy" or "rgb"."""
    found = names(channels)
    return ("" if set(found) <= set("rgb") else "xy") + ("rgb" if "r" in found else "")


def reads_motion(channels: str) -> bool:
    """Whether any of the channels describes motion."""
    return not set(names(channels)) <= set("xyrgb")
