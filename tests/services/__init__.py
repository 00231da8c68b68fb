"""Tests of tabagent/services."""
