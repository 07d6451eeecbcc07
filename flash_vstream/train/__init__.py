"""Two-stage training of a Flash-VStream model on the HF Trainer."""
