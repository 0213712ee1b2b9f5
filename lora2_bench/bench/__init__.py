"""The cost of a training step: every method and engine, PEFT and the frozen backbone, timed side by side."""
