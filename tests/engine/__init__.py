"""Tests of tabagent/engine."""
