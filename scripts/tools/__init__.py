"""What releases models and checks the documentation."""
