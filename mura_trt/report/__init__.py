"""One HTML file for people: what a run has scored, its worklist with pictures, and how it does against labels."""
