"""Tiny data sets in the exact layouts of the published ones, rendered, with exact truth."""
