"""What the scripts do once their flags are parsed; each module is one command, and returns what is to be shown."""
