"""``python -m cli`` from a checkout that is not installed."""

from .main import main

main()
