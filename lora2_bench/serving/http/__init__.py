"""An HTTP server on a kept library: `lora2-bench serve`, see docs/SERVING.md."""
