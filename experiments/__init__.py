"""p against q: the command line, comparisons, and published results to reproduce."""
