"""Published results and figures of lectures, each a short file and a command."""
