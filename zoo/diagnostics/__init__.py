"""How far to trust a posterior: one file a diagnostic, from log weights, draws or traces."""
