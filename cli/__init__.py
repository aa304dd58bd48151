"""The command line ``msip``: parses, calls ``msip`` or ``pad``, prints. Installed as ``msip_cli``."""
