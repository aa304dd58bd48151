"""Labelled sets: images and labels, read by the layout that a folder has."""
