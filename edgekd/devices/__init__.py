"""Devices: places where a model is run and timed."""
