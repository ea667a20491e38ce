"""What several tests share: cases, small models, fakes, and processes to run them in."""
