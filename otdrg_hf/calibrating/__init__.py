"""What is fitted to a trained checkpoint afterwards."""
