"""Tests of `lora2-bench contract`."""
