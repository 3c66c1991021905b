"""PostgreSQL, the truth: one repository per noun, SQL nowhere else."""
