"""Transports: how a request reaches the dispatcher and a reply gets back."""
