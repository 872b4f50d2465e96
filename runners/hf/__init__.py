"""Models of Hugging Face's format, read and written by maps that stand beside the specs."""
