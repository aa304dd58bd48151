"""Uses of a trained encoder: features of images, maps of the patchwise scales."""
