"""Several runs held against each other: grids, paired differences, restarts, selections."""
