"""Prompts: vectors that train before a frozen backbone's input, or before the keys and values of its layers."""
