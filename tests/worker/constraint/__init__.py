"""Tests of tabagent/worker/constraint, with the built-in model's real vocabulary."""
