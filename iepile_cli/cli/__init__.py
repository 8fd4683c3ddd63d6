"""The command line: arguments in, text out, no logic; ``app`` is where it begins."""
