"""Layers, losses and the training loop."""
