"""The report page: figures first, as plain data; then one HTML file that needs nothing else."""
