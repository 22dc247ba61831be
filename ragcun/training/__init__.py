"""Training: data and settings to a checkpoint (`loop`), the steps between (`trainer`), and what they use."""
