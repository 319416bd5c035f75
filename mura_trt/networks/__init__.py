"""What a bundle is built from and judged by: PyTorch checkpoints of our networks, or anybody's ONNX file."""
