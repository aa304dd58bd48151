"""Does it help? Segmentation, detection and probes on the same splits and seeds for every contestant."""
