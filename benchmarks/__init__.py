"""Benchmarks, one command each; RESULTS.md says what they found."""
