"""From public hosts (or a person's browser) to raw trees that ``msip build`` reads.

``terms``: what was accepted; ``hosts``: which files a host serves; ``transfer``: one file, whole; ``job``: all of it.
"""
