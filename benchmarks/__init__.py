"""Speed comparisons, and the PyTorch implementation that they compare with."""
