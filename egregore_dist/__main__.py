"""``python -m egregore_dist``: the same as the command ``egregore-dist``."""

from egregore_dist import cli

if __name__ == "__main__":
    cli.main()
