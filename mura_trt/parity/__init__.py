"""Whether a runtime's scores agree with its network's in FP32: measured level by level, judged by bounds, and told."""
