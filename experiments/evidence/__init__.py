"""Every claim of the experiments' pages, traced to runs that are stored in small."""
