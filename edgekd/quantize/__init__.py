"""Quantization: learned or calibrated once a network, emitted to every target in its convention."""
