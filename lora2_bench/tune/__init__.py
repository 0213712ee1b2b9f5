"""Studies: equal numbers of trials per method and task, the winner as a recipe, its runs on new seeds, the findings."""
