"""Edits: a change written once and applied to any spec, as a text that a person would have written."""
