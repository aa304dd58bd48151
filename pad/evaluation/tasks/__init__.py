"""Downstream tasks: heads, fine-tuning, evidence by test image, scores, drawings."""

from msip.extras import need

need("evaluate")  # here, before any task imports its heads
