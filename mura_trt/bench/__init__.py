"""How fast this machine scores, and what limits it: ``mura-trt bench``; and what every measurement shares."""
