"""``python -m knothole``."""

from knothole.cli import main

main()
