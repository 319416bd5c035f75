"""The nightly run: whether the code is still as fast as it was, as exact, and as hard to kill."""
