"""Deployed layers: integer weights and integer kernels, nothing of training left."""
