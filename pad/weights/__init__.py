"""Tensors on disk: safetensors and torch files, read without running code, and checkpoints of runs."""
