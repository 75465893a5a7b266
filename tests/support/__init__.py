"""What several tests need: models and files that they make, damage to files, cases from the field."""
