"""The seam to the distributed engine: at most eight methods, and no other room knows how many processes there are."""
