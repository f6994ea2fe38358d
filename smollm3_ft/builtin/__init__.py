"""What ships inside the package: a small data set and a small model to try everything with."""
