"""Reporting: numbers with intervals, comparisons of two runs, tables and pictures."""
