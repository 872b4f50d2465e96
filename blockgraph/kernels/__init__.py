"""Plain torch functions that ops lower to; compiled modules carry copies of the ones they call."""
