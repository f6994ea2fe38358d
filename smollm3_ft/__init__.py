"""Fine-tuning SmolLM3, as a plain library: no Prefect here, and torch only where a model is touched."""

__version__ = "0.1.0"
