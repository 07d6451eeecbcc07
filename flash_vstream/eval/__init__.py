"""Evaluation: benchmarks, predicting under two protocols, judges, reports, and the controls that keep them honest."""
