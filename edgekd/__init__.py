"""edgekd: distil, prune, quantize, export, measure and judge models for edge devices."""
