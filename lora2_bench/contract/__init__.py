"""What every method promises, checked on tiny backbones: the tests and `lora2-bench contract` share it."""
