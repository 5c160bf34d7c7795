"""Distillation losses: each takes student logits, labels and teacher outputs, and gives a scalar."""
