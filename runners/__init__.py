"""What trains a compiled spec: data, the training loop, checkpoints and run directories."""
