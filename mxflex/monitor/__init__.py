"""What those who look after the daemon see: its figures, and whether it is ready."""
