"""The nightly run: is the code still as fast as it was, as exact, and as hard to kill?"""
