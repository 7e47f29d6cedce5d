"""What is shown of the runs: tables, profiles, pictures, and targets."""
