"""Tests of `tabagent.catalog`."""
