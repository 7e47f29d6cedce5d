"""What the contenders are given, each with its referee."""
