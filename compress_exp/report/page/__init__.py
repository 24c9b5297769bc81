"""The page: every record of `outputs` as one HTML file that needs no network."""
