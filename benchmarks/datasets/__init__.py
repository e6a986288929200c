"""Readers of data sets: each turns a published layout into tasks for the runner."""
