"""Measuring an artifact in its runtime: accuracy, latency, memory, operators, parity."""
