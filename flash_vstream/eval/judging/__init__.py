"""Judging: which predictions are right, by exact match, multiple choice or a language model."""
