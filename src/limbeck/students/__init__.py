"""Parts that stand on a student: heads that only training needs, heads that inference keeps, and the way out as one file."""
