"""Checkpoints: their files, both weight layouts, adapters, and what DeepSpeed's ZeRO-3 requires."""
