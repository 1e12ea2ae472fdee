"""One published data set a module: its options, how it is opened, and what can be wrong with it."""
