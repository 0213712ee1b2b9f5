"""What LoRA, AdaLoRA, SoRA and LoRA² share: layers, ranks, budgets, and the fast engine."""
