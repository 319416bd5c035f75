"""What the commands take and print; what they do is done elsewhere, and imported inside them."""
