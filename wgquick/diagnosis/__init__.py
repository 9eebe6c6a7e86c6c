"""What is wrong, and why: files and hosts in, findings out."""
