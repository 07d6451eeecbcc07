"""`python -m flash_vstream COMMAND`: see cli.py."""

from flash_vstream.cli import entry

entry()
