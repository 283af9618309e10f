"""Models on one device: loading, batching, forward passes, optimizer steps, checkpoints."""
