"""REST, version 1: one file per resource, thin over the repositories."""
