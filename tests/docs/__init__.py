"""The pages hold what the code does: their tables, links and commands are checked here."""
