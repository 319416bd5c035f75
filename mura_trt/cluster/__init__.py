"""Workers on the nodes of a Ray cluster: the same worker, supervisor and ledger, and messages by Ray."""
