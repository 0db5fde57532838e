"""Results of protocols: tables, JSON, pictures, scorecards and comparisons."""
