"""Names of the landmark sources, in a separate module so that ``--help`` lists them without importing a source."""

SOURCES = ("mediapipe", "insightface", "lucas-kanade", "tracks", "table")
DETECTORS = ("mediapipe", "insightface")  # find a face in a single frame
WITHOUT_FILES = tuple(name for name in SOURCES if name != "tracks")  # need no option that names a file for each video
