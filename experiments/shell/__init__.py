"""Words on the command line: options from signatures, help, and one clear line for an error."""
