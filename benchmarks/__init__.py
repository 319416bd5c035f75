"""Benchmarks and what must hold of speed and memory; results/ keeps what was measured, and where."""
