"""Readers of data sets, one module each.

A reader defines three names:

- ``Options``: a frozen dataclass of the options that ``config.data`` has only for this data set. An option declared as
  ``str`` is a path; for a choice of words, use ``Literal``.
- ``FACTS``: what holds for every clip (``source.Facts``).
- ``open(root, options, wanted, problems)``: reads the lists and returns a ``source.Dataset``. Problems with lists go to
  ``problems``, which raises the first as a ``DataError`` or collects them; the clips check their own files. A missing
  folder is a ``UserError`` that says what to get and where to put it.
"""

BUILT_IN = "synthetic"  # needs no files
# A module is imported when its data set is first used.
READERS = (BUILT_IN, "youtubepd", "pfed5", "neuroface", "dfew", "ravdess", "folder", "tables")
