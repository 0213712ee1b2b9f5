"""lora2-bench: reproduce the GLUE study of LoRA² (arXiv 2408.06854) and put its claims to the test."""

__version__ = "0.1.0"
