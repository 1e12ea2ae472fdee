"""Builds ONNX graphs of trained models. See docs/export.md."""
