"""PyTorch checkpoints into this project's variables, tensor by tensor, and back."""
