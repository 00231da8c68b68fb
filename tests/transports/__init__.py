"""Tests of tabagent/transports."""
