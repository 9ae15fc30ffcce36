"""Serves bundles, and any callable, by the Open Inference Protocol."""
