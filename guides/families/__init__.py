"""Ψ(z; κ): the shape of q for one datapoint, one family a file; the file is the registration."""
