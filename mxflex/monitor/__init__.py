"""What those who look after the daemon see: its figures, whether it is ready and lives."""
