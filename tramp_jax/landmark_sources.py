"""Names of the landmark sources. A module of its own, so that ``--help`` lists them without importing a source."""

SOURCES = ("mediapipe", "insightface", "lucas-kanade", "tracks", "table")
DETECTORS = ("mediapipe", "insightface")  # those that find a face in a single frame
WITHOUT_FILES = tuple(name for name in SOURCES if name != "tracks")  # those that need no file named for each video
