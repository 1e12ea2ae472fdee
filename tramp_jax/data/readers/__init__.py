"""Readers of data sets, a module each.

A reader defines three names:

- ``Options``: a frozen dataclass of the options that ``config.data`` has for this data set only. An option declared as
  ``str`` is a path; a word out of several is declared as ``Literal``.
- ``FACTS``: what holds for every clip (``source.Facts``).
- ``open(root, options, wanted, problems)``: reads the lists and returns a ``source.Dataset``. Problems with lists go to
  ``problems``; the clips check their own files.
"""

# A module is imported when its data set is first used.
READERS = ("synthetic", "youtubepd", "pfed5", "neuroface", "dfew", "ravdess", "folder", "tables")
