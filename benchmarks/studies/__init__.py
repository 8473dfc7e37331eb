"""What backs a number in README: studies, their tasks and rivals, and the tables they become."""
