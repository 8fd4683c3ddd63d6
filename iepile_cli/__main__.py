"""``python -m iepile_cli``."""

from iepile_cli.cli.app import main

main()
