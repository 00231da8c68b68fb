"""Tests of tabagent/commands."""
