"""What the report stage is made of: reading of artefacts, counts, figures and sentences."""
