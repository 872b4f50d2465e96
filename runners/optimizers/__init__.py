"""Optimisers that torch lacks."""
