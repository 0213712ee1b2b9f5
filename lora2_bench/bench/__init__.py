"""What a training step costs: every method and engine, PEFT and the frozen backbone, measured side by side."""
