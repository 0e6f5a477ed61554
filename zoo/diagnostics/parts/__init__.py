"""The parts of a card: each turns what diagnostics found into checks."""
