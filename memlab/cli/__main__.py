"""``python -m memlab.cli``."""

from memlab.cli import main

main()
