"""Tests, one folder per room; `tests.support` holds what they share, `tests.lab` the multi-node lab."""
