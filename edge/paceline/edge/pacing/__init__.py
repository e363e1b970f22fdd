"""What to draft, how far ahead, and who fills: one seam, several answers."""
