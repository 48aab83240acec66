"""Suites: the benchmarks of a paper, asked as it asks them. `experiments.evaluate --suite` runs them."""
