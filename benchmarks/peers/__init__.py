"""What a user would write or install instead of mura-trt, each tuned, on the same files with the same weights."""
