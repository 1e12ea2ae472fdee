"""A trained model as an ONNX graph, in a file or in memory, and scoring with it. See docs/export.md."""
