"""What a scorer must survive, for an hour."""
