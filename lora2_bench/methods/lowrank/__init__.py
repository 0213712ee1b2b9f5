"""Shared by LoRA, AdaLoRA, SoRA and LoRA²: layers, ranks, budgets, and the fast engine."""
