"""Parts of the acceptance run on a GPU: each section takes :class:`Work` and gives JSON."""
