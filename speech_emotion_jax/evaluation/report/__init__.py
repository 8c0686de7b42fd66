"""What a bulk run found: its figures and tables, the page that shows them, and a few lines for a terminal."""
