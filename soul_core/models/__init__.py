"""Models: files checked and loaded, packed attention, one forward pass scored, answers generated."""
