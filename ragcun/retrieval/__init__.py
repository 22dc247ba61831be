"""Exact search, BM25, metrics, significance, and whole evaluations."""
