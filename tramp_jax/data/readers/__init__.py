"""Readers of data sets, a module each.

A reader has ``Options``, a frozen dataclass of the options that ``config.data`` has for this data set only, in which
every string is a path; ``FACTS`` (``source.Facts``); and ``open(root, options, wanted, problems)``, which reads the
lists and returns a ``source.Dataset``. Problems with lists go to ``problems``; the clips check their own files.
"""

# A module is imported when its data set is first used.
READERS = ("synthetic", "youtubepd", "pfed5", "neuroface", "dfew", "folder")
