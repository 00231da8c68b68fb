"""Tests of tabagent/worker/gguf, on a model small enough to compute by the thousand."""
