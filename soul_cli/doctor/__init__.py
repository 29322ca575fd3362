"""`soul doctor`: checks of this installation, each with a remedy."""
