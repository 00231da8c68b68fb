"""Tests of tabagent/worker."""
