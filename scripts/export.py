"""``ragcun export`` under its script's name."""

from ragcun.cli.main import script

if __name__ == "__main__":
    script("export")
