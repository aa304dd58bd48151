"""Downstream tasks: heads, fine-tuning, evidence by test image, scores, drawings."""
