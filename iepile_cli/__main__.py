"""``python -m iepile_cli``."""

from iepile_cli.cli import main

main()
